/** The Python programs that put questions to fail2ban's own client, many in one start. */
import type { Command } from '../../src/renderer.ts';

/** Seconds for the server to answer a question. */
const patience = 30;

/**
 * Each question is `fail2ban-client` with words of its own, as anybody could type them, and its answer is what that
 * prints. To start it 20 times, for 20 jails, would be to load Python and fail2ban 20 times: 60 of the 80 ms that one
 * takes (fail2ban 1.0.2). So where it is a program for this Python, its modules are loaded once, and it is run in
 * forks; anything else is started as it is.
 *
 * A configuration is tried in a copy, one for each try. Only what lies at the top and in jail.d is in it, read once for
 * all tries; the folders of filters and actions, 170 files, are links to the real ones.
 */
const head = `import ast, json, os, signal, sys

stage = sys.argv[1]
folder = "/etc/fail2ban"
asked = json.load(sys.stdin)

def find(name):
    for place in os.environ["PATH"].split(":"):
        path = os.path.join(place, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    sys.exit(127)

def is_this(python):
    # A virtual environment has a link to the same Python, and other modules.
    this = sys.executable
    return os.path.dirname(python) == os.path.dirname(this) and os.path.realpath(python) == os.path.realpath(this)

def compiled(path):
    try:
        with open(path, "rb") as file:
            text = file.read()
        if not text.startswith(b"#!") or not is_this(os.fsdecode(text[2:].split(None, 1)[0])):
            return None
        import fail2ban.client.configurator, fail2ban.client.fail2banclient
        return compile(text, path, "exec")
    except Exception:
        return None

client = find("fail2ban-client")
code = compiled(client)
started = 0

def ask(*words, limit=0):
    global started
    started += 1
    paths = [os.path.join(stage, "%s-%d" % (name, started)) for name in ("stdout", "stderr")]
    pid = os.fork()
    if pid != 0:
        return pid, paths, limit
    status = 1
    try:
        for n, path in enumerate(paths):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), n + 1)
        signal.alarm(limit)
        sys.argv = [client, *words]
        if code is None:
            os.execv(client, sys.argv)
        result = 0
        try:
            exec(code, {"__name__": "__main__", "__file__": client})
        except SystemExit as end:
            result = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        # What cannot be written is no answer.
        sys.stdout.flush()
        status = result & 255
    finally:
        os._exit(status)

def answer(question):
    pid, paths, limit = question
    status = os.waitpid(pid, 0)[1]
    texts = []
    for path in paths:
        with open(path, "rb") as file:
            texts.append(file.read().decode(errors="surrogateescape"))
    said = {"code": None, "ended": None, "stdout": texts[0], "stderr": texts[1]}
    if os.WIFEXITED(status):
        said["code"] = os.WEXITSTATUS(status)
    elif limit and os.WTERMSIG(status) == signal.SIGALRM:
        said["ended"] = "did not end within %d s" % limit
    else:
        said["ended"] = "was ended by %s" % signal.Signals(os.WTERMSIG(status)).name
    return said

def link(name):
    return os.path.islink(os.path.join(folder, name))

def kept():
    files = {}
    for inside in ("", "jail.d"):
        for entry in os.scandir(os.path.join(folder, inside)):
            name = os.path.join(inside, entry.name)
            files[name] = None
            # What is no file, or cannot be read, is left to fail2ban.
            if entry.is_file():
                try:
                    with open(os.path.join(folder, name), "rb") as file:
                        files[name] = file.read()
                except OSError:
                    pass
    del files["jail.d"]
    return files

def copy(name, files, changes):
    path = os.path.join(stage, name)
    os.makedirs(os.path.join(path, "jail.d"))
    # What a link leads to is not ours to change.
    changes = {name: text for name, text in changes.items() if not link(name)}
    for name, content in {**files, **changes}.items():
        if content is None:
            if name not in changes:
                os.symlink(os.path.join(folder, name), os.path.join(path, name))
            continue
        with open(os.path.join(path, name), "xb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
    return path

def load(folder):
    return folder, ask("-c", folder, "-d")

# It prints one command a line, each a Python list.
def loaded(question):
    place, asked = question
    said = answer(asked)
    if said["ended"]:
        sys.exit("fail2ban-client -d " + said["ended"])
    lines = (said["stdout"] + said["stderr"]).splitlines()
    if said["code"] != 0:
        errors = [line.split("ERROR", 1)[1].strip().replace(place, folder) for line in lines if "]: ERROR" in line]
        return {"jails": None, "skipped": [], "errors": errors or lines[-3:], "no_log": []}
    no_log = [line for line in lines if "Have not found any log file" in line]
    jails, skipped = {}, []
    for line in said["stdout"].splitlines():
        if not line.startswith(("['add', ", "['set', ", "['config-error', ")):
            continue
        words = ast.literal_eval(line)
        if words[0] == "config-error":
            skipped.append(words[1])
        elif words[0] == "add":
            jails.setdefault(words[1], [])
        elif words[2] == "addignoreip":
            jails.setdefault(words[1], []).extend(words[3:])
    return {"jails": jails, "skipped": skipped, "errors": [], "no_log": no_log}
`;

/**
 * The server and the configuration are asked side by side. Of the jails four are asked at a time: the server
 * has one thread for all who ask.
 */
const observing = `${head}
def jails_in(banned):
    try:
        return [str(name) for jails in ast.literal_eval(banned["stdout"].strip()) for name in jails]
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        # Whoever reads the answer says what is wrong with it.
        return []

def observed(tries):
    jail_d = os.path.join(folder, "jail.d")
    if not os.path.isdir(jail_d):
        return None
    try:
        files = kept()
        return {
            "writable": os.access(jail_d, os.W_OK),
            "links": sorted(filter(link, files)),
            "loads": [load(copy("try-%d" % n, files, changes)) for n, changes in enumerate(tries)] + [load(folder)],
        }
    except PermissionError:
        return {"writable": False, "links": [], "loads": []}
    except OSError as error:
        sys.exit(str(error))

banned = ask("banned", limit=${patience})
found = observed(asked["tries"])
banned = answer(banned)
names = jails_in(banned) if banned["code"] == 0 else []
ignoreip = []
for n in range(0, len(names), 4):
    questions = [(name, ask("get", name, "ignoreip", limit=${patience})) for name in names[n:n + 4]]
    ignoreip.extend((name, answer(question)) for name, question in questions)
if found is not None:
    found["loads"] = [loaded(question) for question in found["loads"]]
print(json.dumps({"banned": banned, "ignoreip": ignoreip, "configuration": found}))
`;

/**
 * Every jail must still be there, and ignore what it ignored and the ranges. The server refuses a reload
 * while a log file is missing; `-d` only warns.
 */
const checking = `${head}
found = loaded(load(copy("try", kept(), asked["files"])))
if found["jails"] is None:
    sys.exit("\\n".join([asked["hint"]] + found["errors"]))
problems = found["no_log"] if asked["running"] else []
for name in sorted(set(asked["jails"]) ^ set(found["jails"])):
    problems.append("jail %s would %s" % (name, "be gone" if name in asked["jails"] else "be new"))
for name, values in asked["jails"].items():
    ignored = set(found["jails"].get(name, values))
    missing = [value for value in values if value not in ignored]
    if missing:
        problems.append("jail %s would not ignore %s%s: a file that is read later sets ignoreip"
                        % (name, missing[0], " and %d more" % (len(missing) - 1) if missing[1:] else ""))
sys.exit("\\n".join(problems) or 0)
`;

/** Texts by names below /etc/fail2ban; `null` for one that is not there. */
export type Changes = Readonly<Record<string, string | null>>;

/**
 * Asks the server for its jails, what they ban and ignore, and the client what the configuration comes to with each
 * of these changes, then as it is.
 */
export function observation(tries: readonly Changes[]): Command {
  return python(observing, { tries });
}

/** Fails, and says why, unless the configuration with these changes gives these jails what they are to ignore. */
export function check(expected: {
  readonly files: Changes;
  readonly jails: Readonly<Record<string, readonly string[]>>;
  /** Whether a reload follows. */
  readonly running: boolean;
  /** What to say when it does not load. */
  readonly hint: string;
}): Command {
  return python(checking, expected);
}

function python(text: string, input: unknown): Command {
  const name = 'cfsync.py';
  return {
    argv: ['python3', '-I', `{stage}/${name}`, '{stage}'],
    stdin: JSON.stringify(input),
    timeout: 120_000,
    stage: { files: { [name]: text } },
  };
}
