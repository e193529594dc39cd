/** The block in csf.allow and csf.ignore that names cfsync's own file. */

const begin = '# BEGIN cfsync managed block - do not edit';
/** The same where the line before it had no end, so that `removeBlock` can put that back. */
const beginAfterBreak = `${begin} (the line before had no end)`;
const end = '# END cfsync managed block';

/** The lines of the block for the file at `path`. CSF takes `Include` only so: no blank before or after. */
export function block(path: string, first = begin): string {
  return `${first}\nInclude ${path}\n${end}\n`;
}

/** Whether the block is there, once and whole; where in the file does not matter to CSF. */
export function hasBlock(text: string, path: string): boolean {
  return (
    chunks(text).filter((line) => isOurs(line, path)).length === 3 &&
    [begin, beginAfterBreak].some((first) => `\n${text}`.includes(`\n${block(path, first)}`))
  );
}

/** The text with the block at its end. */
export function addBlock(text: string, path: string): string {
  const rest = removeBlock(text, path);
  return rest === '' || rest.endsWith('\n')
    ? rest + block(path)
    : `${rest}\n${block(path, beginAfterBreak)}`;
}

/** The text as it would be without the block; the remains of a damaged one go as well. */
export function removeBlock(text: string, path: string): string {
  const rest = chunks(text)
    .filter((line) => !isOurs(line, path))
    .join('');
  // What was added behind the block since then needs the line end.
  return text.endsWith(`\n${block(path, beginAfterBreak)}`) ? rest.slice(0, -1) : rest;
}

/** Lines with their ends. */
function chunks(text: string): string[] {
  return text.split(/(?<=\n)/);
}

function isOurs(line: string, path: string): boolean {
  return [begin, beginAfterBreak, end, `Include ${path}`].includes(line.trim());
}
