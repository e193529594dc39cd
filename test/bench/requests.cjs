/** What a run that downloads cannot do without: a Node that asks the three feeds at the addresses given. */
const { download } = require('../../dist/src/download.js');

async function ask([ipv4, ipv6, api]) {
  const { text, json } = await download({ ipv4, ipv6, api });
  if (text.error ?? json.error) throw text.error ?? json.error;
}

void ask(process.argv.slice(2));
