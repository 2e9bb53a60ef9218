#!/bin/sh
# archive_command: copy one finished WAL file into a folder, so that it survives power loss and is never overwritten.
# In clear: "dbsec backup wal" seals it, and its restore_command refuses a file that was changed since.
#
#   archive_command = '/path/to/wal_archiving.sh "%p" "%f" "/path/to/archive"'
#
# Exit 0 only when file and name are on disk. Anything else makes the server keep the file and try again: the codes stay
# below 126, from where on the server would restart its archiver.

set -eu
umask 077

fail() {
    printf 'wal_archiving: %s\n' "$1" >&2
    exit 1
}

# two servers that archive into one folder write different files of one name: the first one stays
already_there() {
    cmp -s -- "$source" "$target" || fail "'$target' is there with other content: does another server archive here?"
    sync -- "$target" "$archive" || fail "cannot flush '$target'"
    exit 0
}

[ $# -eq 3 ] || fail 'usage: wal_archiving.sh PATH NAME ARCHIVE'
source=$1 name=$2 archive=$3
target=$archive/$name

# a segment, a partial one of a promotion, the history of a timeline, the label of a backup
case $name in *[!0-9A-Za-z.]*) fail "'$name' is not the name of a WAL file" ;; esac
hex='[0-9A-F]\{8\}'
printf '%s\n' "$name" | grep -q -x -e "$hex$hex$hex\(\.partial\|\.$hex\.backup\)\{0,1\}" -e "$hex\.history" ||
    fail "'$name' is not the name of a WAL file"
# not made here: a folder that is missing may be a disk that is not mounted
[ -d "$archive" ] || fail "folder '$archive' is not there"
[ ! -e "$target" ] || already_there

part=$archive/.$name.$$.part
trap 'rm -f -- "$part"' EXIT
dd if="$source" of="$part" bs=1048576 conv=fsync 2>/dev/null || fail "cannot write '$part'"
# a link fails where the name exists, where a rename would overwrite it
ln -- "$part" "$target" 2>/dev/null || {
    [ -e "$target" ] || fail "cannot make '$target'"
    already_there
}
rm -f -- "$part"
sync -- "$archive" || fail "cannot flush folder '$archive'"
