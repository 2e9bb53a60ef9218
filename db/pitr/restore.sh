#!/bin/sh
# Make a data folder from a base backup and an archive of WAL, ready to be started and to recover to a point in time.
#
#   restore.sh BACKUP ARCHIVE FOLDER [TIME]     as the account of the server
#     BACKUP   a base backup in plain format (pg_basebackup -Fp), which is not changed
#     ARCHIVE  the folder that wal_archiving.sh fills
#     FOLDER   the new data folder: absent or empty
#     TIME     recover to the last commit before it, as '2026-11-23 10:00:00+00'; without it to the end of the archive
#
#   restore.sh sealed CONFIG FOLDER [TIME] [OPTION ...]
#     the same from an encrypted repository: CONFIG is a dbsec.toml with [backup], OPTION one of dbsec backup restore.
#     Its WAL cannot end short, and nothing in it can be altered: see dbsec backup restore --help
#
#   restore.sh fetch ARCHIVE NAME PATH          restore_command, called by the server
#     exit 0 copied; 1 the archive ends before it; 255 anything else. The server takes every code up to 125 for the end of
#     the archive, and would open a short database without a word.

set -eu
umask 077

fail() {
    printf 'restore: %s\n' "$1" >&2
    exit 255
}

# whatever fails unforeseen must not look like the end of the archive
at_exit() {
    code=$?
    [ "$code" -eq 0 ] || [ "$ended" = yes ] || exit 255
}

fetch() {
    [ $# -eq 3 ] || fail 'usage: restore.sh fetch ARCHIVE NAME PATH'
    archive=$1 name=$2 path=$3
    ended=no
    trap at_exit EXIT
    [ -d "$archive" ] || fail "folder '$archive' is not there"
    if [ ! -e "$archive/$name" ]; then
        names=$(ls -- "$archive") || fail "cannot list '$archive'"
        later=$(printf '%s\n' "$names" | awk -v want="$name" '
            length(want) == 24 && /^[0-9A-F]+$/ && length($0) == 24 &&
            substr($0, 1, 8) == substr(want, 1, 8) && ($0 "") > (want "") { print; exit }') || fail 'awk failed'
        [ -z "$later" ] || fail "'$name' is missing, but '$later' is there: the archive has a hole"
        ended=yes
        exit 1
    fi
    cp -- "$archive/$name" "$path" || fail "cannot copy '$name'"
}

sealed() {
    [ $# -ge 2 ] || fail 'usage: restore.sh sealed CONFIG FOLDER [TIME] [OPTION ...]'
    command -v dbsec >/dev/null || fail "dbsec is not in PATH: pip install 'dbsec[backup]'"
    config=$1 folder=$2
    shift 2
    case ${1--} in -*) ;; *)
        time=$1
        shift
        set -- --time "$time" "$@"
        ;;
    esac
    exec dbsec backup restore --config "$config" --to "$folder" "$@"
}

if [ "${1-}" = sealed ]; then
    shift
    sealed "$@"
fi

if [ "${1-}" = fetch ]; then
    shift
    fetch "$@"
    exit 0
fi

[ $# -eq 3 ] || [ $# -eq 4 ] || fail 'usage: restore.sh BACKUP ARCHIVE FOLDER [TIME]'
[ "$(id -u)" -ne 0 ] || fail 'run it as the account of the server, not as root'
backup=$1 folder=$3 time=${4-}
archive=$(cd -- "$2" && pwd) || fail "folder '$2' is not there"
self=$(cd -- "$(dirname -- "$0")" && pwd)/$(basename -- "$0")

# these stand in a quoted setting that a shell reads again
case $self$archive$time in *[\'\"\\%\$\`]*) fail "quotes, %, \$ and \\ cannot stand in a path or time here" ;; esac
# without the bit the shell would answer with a code that the server takes for the end of the archive
[ -x "$self" ] || fail "'$self' is not executable: chmod +x '$self'"
[ -f "$backup/PG_VERSION" ] || fail "'$backup' is not a base backup in plain format"
[ -f "$backup/backup_label" ] || fail "'$backup' has no backup_label: it was started, or is a copy of a running server"
[ -z "$(ls -A -- "$backup/pg_tblspc")" ] || fail 'it has tablespaces, whose links lead to the folders of the old server'
[ ! -L "$backup/pg_wal" ] || fail 'its pg_wal is a link, which leads to a folder that is not of the backup'
[ ! -e "$folder" ] || [ -z "$(ls -A -- "$folder")" ] || fail "folder '$folder' is not empty"

if command -v pg_verifybackup >/dev/null; then
    pg_verifybackup --no-parse-wal --quiet -- "$backup" || fail "'$backup' is damaged"
else
    printf 'restore: pg_verifybackup is not in PATH: the backup was not verified\n' >&2
fi

mkdir -p -- "$folder"
cp -R -- "$backup"/. "$folder"
chmod -R u+rwX,go-rwx -- "$folder"

# a standby's settings (pg_basebackup -R) hold a password in clear, and would lead the copy to the live server
rm -rf -- "$folder/standby.signal" "$folder/postmaster.pid" "$folder/postmaster.opts" "$folder"/pg_replslot/*
conf=$folder/postgresql.auto.conf
touch -- "$conf"
sed -e '/^[[:space:]]*primary_/d' -e '/^[[:space:]]*recovery_/d' -e '/^[[:space:]]*restore_command/d' \
    -e '/^[[:space:]]*archive_/d' -- "$conf" >"$conf.new"
cat >>"$conf.new" <<END
# made by restore.sh
restore_command = '"$self" fetch "$archive" "%f" "%p"'
recovery_target_action = 'promote'
primary_conninfo = ''
primary_slot_name = ''
# a copy must not archive over its original: give it a folder of its own before you switch it on
archive_mode = 'off'
END
[ -z "$time" ] || printf "recovery_target_time = '%s'\n" "$time" >>"$conf.new"
mv -- "$conf.new" "$conf"
: >"$folder/recovery.signal"
sync

printf 'restored to %s; next: pg_ctl -D %s start\n' "$folder" "$folder"
