/** Makes nginx read its configuration again. */

/**
 * `nginx -s reload` ends before the master has read anything, and well even when the master then cannot
 * load the configuration and goes on with the old one (nginx 1.22.1: a port that is taken passes nginx -t).
 * So this waits until the old workers have been told to go: that happens once new ones are running.
 */
export const reloadScript = `nginx -t -q || exit
pid=$(cat "$1") || exit
old=$(cat "/proc/$pid/task/$pid/children")
nginx -s reload || exit
tries=0
while [ $tries -lt 150 ]; do
  left=
  for worker in $old; do
    [ ! -e "/proc/$worker" ] || grep -qs 'shutting down' "/proc/$worker/cmdline" || left=1
  done
  [ -n "$left" ] || exit 0
  sleep 0.1
  tries=$((tries + 1))
done
echo "nginx goes on with its old workers: it cannot load the configuration, and its error log says why" >&2
exit 1`;
