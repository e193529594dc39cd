/** What a run that downloads cannot do without: a Node that asks the three feeds at the addresses given. */
const { download } = require('../../dist/src/download.js');

const [ipv4, ipv6, api] = process.argv.slice(2);
download({ ipv4, ipv6, api }).then(({ text, json }) => {
  if (text.error ?? json.error) throw text.error ?? json.error;
});
