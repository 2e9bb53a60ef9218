#!/bin/sh
# Debian's servers for the tests that need them: PostgreSQL 15, PgBouncer, MariaDB, SoftHSM, pgBackRest, Chromium,
# cryptsetup and gocryptfs.
# Root installs them with apt-get; anybody else unpacks them into .extra/ of this checkout. A second call does nothing.
# What cannot be had is said and is no error here: its tests are skipped by name, or fail with DBSEC_REQUIRE=all.
set -eu
cd "$(dirname "$0")/.."
WANTED="postgresql-15 pgbouncer mariadb-server softhsm2 pgbackrest chromium-headless-shell fonts-dejavu-core libatomic1
        cryptsetup-bin gocryptfs fuse3"
PROGRAMS="usr/sbin/pgbouncer usr/sbin/mariadbd usr/bin/mariadb usr/bin/mariadb-install-db usr/bin/softhsm2-util
          usr/bin/pgbackrest usr/lib/chromium/chromium-headless-shell sbin/cryptsetup usr/bin/gocryptfs
          usr/bin/fusermount3"
EXTRA=$PWD/.extra

say() { echo "setup-extra: $*" >&2; }

debian() { [ -r /etc/os-release ] && (. /etc/os-release && [ "${ID:-}" = debian ]) && command -v apt-get >/dev/null; }

not_installed() {
    have=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $WANTED 2>/dev/null | sed -n 's/^installed //p')
    for package in $WANTED; do
        echo "$have" | grep -qx "$package" || echo "$package"
    done
}

offered() { # offered OPTION... -- PACKAGE...: those that this release has
    options=
    while [ "$1" != -- ]; do options="$options $1"; shift; done
    shift
    apt-cache $options policy "$@" 2>/dev/null |
        awk '/^[^ ]/ { sub(":$", ""); name = $0 } /Candidate:/ && $2 != "(none)" { print name }'
}

# --- root -----------------------------------------------------------------------------------------------------------

POLICY=/usr/sbin/policy-rc.d
NO_CLUSTER=/etc/postgresql-common/createcluster.d/dbsec.conf
undo=

keep_quiet() { # neither a cluster on port 5432 nor a service comes from this installation
    if [ ! -e "$POLICY" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$POLICY"
        chmod 755 "$POLICY"
        undo="$undo $POLICY"
    fi
    if [ ! -e "$NO_CLUSTER" ]; then
        mkdir -p "$(dirname "$NO_CLUSTER")"
        echo "create_main_cluster = false" >"$NO_CLUSTER"
        undo="$undo $NO_CLUSTER"
    fi
}

disable_services() { # for those that came now: the next boot would start them
    [ -d /run/systemd/system ] || return 0
    for package in "$@"; do
        case $package in
            mariadb-server) systemctl disable --now mariadb.service ;;
            pgbouncer) systemctl disable --now pgbouncer.service ;;
            postgresql-15) systemctl disable --now postgresql.service ;;
        esac
    done >/dev/null 2>&1 || true
}

install_as_root() {
    log=$(mktemp)
    trap 'rm -f $undo "$log"; rmdir "${NO_CLUSTER%/*}" 2>/dev/null || true' EXIT
    trap 'exit 130' INT TERM
    available=$(offered -- "$@")
    if [ "$(echo "$available" | wc -w)" -lt $# ]; then
        apt-get -qq update || say "apt-get update failed"
        available=$(offered -- "$@")
    fi
    [ -n "$available" ] || return 0
    keep_quiet
    say "apt-get install" $available
    export DEBIAN_FRONTEND=noninteractive
    get="apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 --no-install-recommends install"
    if ! $get $available >"$log" 2>&1; then
        # Lists that are older than the archive name versions that it no longer has.
        { apt-get -qq update && $get $available; } >"$log" 2>&1 || { say "apt-get failed:"; tail -5 "$log" >&2; }
    fi
    disable_services $available
}

# --- an ordinary user -----------------------------------------------------------------------------------------------

unpack_as_user() {
    # apt's own lists where they are there, else lists of ours: only root may update the system's.
    own=
    if [ "$(offered -- "$@" | wc -w)" -lt $# ]; then
        mkdir -p "$EXTRA/apt/lists/partial" "$EXTRA/apt/cache/archives/partial"
        own="-o Dir::State::Lists=$EXTRA/apt/lists -o Dir::Cache=$EXTRA/apt/cache"
        apt-get -qq $own update || say "apt-get update failed"
    fi
    available=$(offered $own -- "$@")
    [ -n "$available" ] || return 0
    say "apt-get download and dpkg -x into .extra:" $available
    mkdir -p "$EXTRA/debs" "$EXTRA/root"
    # With what they need. A name followed by [version] is installed already, and only not the newest.
    needed=$(apt-get -qq $own --simulate --no-install-recommends install $available |
        awk '/^Inst/ && $3 !~ /^\[/ { print $2 }')
    if [ -n "$needed" ] && (cd "$EXTRA/debs" && apt-get -qq $own download $needed); then
        for deb in "$EXTRA"/debs/*.deb; do
            dpkg -x "$deb" "$EXTRA/root"
        done
        write_starters
    else
        say "apt-get failed"
    fi
    rm -rf "$EXTRA/debs" "$EXTRA/apt"
}

write_starters() { # .extra/bin/NAME runs a program of .extra/root with its libraries
    mkdir -p "$EXTRA/bin"
    libraries=$(find "$EXTRA/root/usr/lib" "$EXTRA/root/lib" -maxdepth 1 -name '*-linux-gnu*' 2>/dev/null | paste -sd: -)
    for program in $PROGRAMS; do
        [ -x "$EXTRA/root/$program" ] || continue
        printf '#!/bin/sh\nLD_LIBRARY_PATH="%s"\nexport LD_LIBRARY_PATH\nexec "%s" "$@"\n' \
            "$libraries" "$EXTRA/root/$program" >"$EXTRA/bin/${program##*/}"
        chmod 755 "$EXTRA/bin/${program##*/}"
    done
}

unpacked() { # what .extra/root holds, by the lists that dpkg -x does not write
    for package in "$@"; do
        doc=$EXTRA/root/usr/share/doc/$package # a link where the package shares it with another
        [ -e "$doc" ] || [ -L "$doc" ] || echo "$package"
    done
}

# --------------------------------------------------------------------------------------------------------------------

if ! debian; then
    say "this is not Debian: tests that need $WANTED will be skipped"
    exit 0
fi
missing=$(not_installed)
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ]; then
    install_as_root $missing
    missing=$(not_installed)
else
    missing=$(unpacked $missing)
    [ -n "$missing" ] || exit 0
    unpack_as_user $missing
    missing=$(unpacked $missing)
fi
[ -z "$missing" ] || say "not to be had here:" $missing
