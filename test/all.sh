#!/bin/sh
# Installs what the tests need on Debian, then runs all checks and all tests. Needs root: the live tests make
# network and mount namespaces, and touch nothing outside of them.
set -eu
cd "$(dirname "$0")/.."

cat <<'END'
This runs every check and test: 40 minutes on two cores, an hour on a slower or busy machine.
It needs root, Debian, Node 20.19 or later, what apt and npm are set up to install from, and 1 GB of disk.
It installs Debian packages and starts none of their services; its firewalls are in network namespaces of its own.
END

if [ "$(id -u)" != 0 ]; then
	echo 'This runs every test, and the live ones need root; "npm test" runs the others.' >&2
	exit 1
fi

# The packages are here to be run in namespaces; their services must not start on this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends \
	apache2 bash curl fail2ban fish git iproute2 ipset iptables mandoc nftables nginx-light perl procps python3 strace \
	systemd ufw util-linux zsh
command -v kubectl >/dev/null || apt-get install -y --no-install-recommends kubernetes-client
# Of prometheus (19 MB, 96 MB unpacked) promtool alone: the package brings a server and its account.
if ! command -v promtool >/dev/null; then
	folder=$(mktemp -d)
	(cd "$folder" && apt-get download prometheus && dpkg-deb -x prometheus_*.deb .)
	install "$folder/usr/bin/promtool" /usr/local/bin/
	rm -rf "$folder"
fi

npm ci
npm run types
npm run lint
npm run format:check
npm run deadcode
CFSYNC_TEST_ALL=1 npm test
