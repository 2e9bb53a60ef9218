#!/bin/sh
# Lint the migrations that a branch changes against its base; runs in any CI that has git and dbsec[migrations].
#
#   lint-migrations.sh [BASE]      BASE: a branch or commit, e.g. origin/main; without it every migration is judged
#
# From the environment:
#   MIGRATIONS   the folder of migrations (db/migrations)
#   SCHEMA       pg_dump -s of what is deployed (db/schema.sql where it is there)
#   STATS        a snapshot of dbsec migrate snapshot, so that findings say how long they block
#   BASELINE     findings that were there before (dbsec migrate lint --write-baseline)
#   FORMAT       text, github, gitlab, sarif or json (text)
#   OUTPUT       a file for the report; the log then has only the summary
#
# Exit codes are dbsec's: 0 clean, 1 errors found, 2 wrong usage, 3 something could not be read.
set -eu

base=${1:-${BASE:-}}
schema=${SCHEMA:-db/schema.sql}
set -- "${MIGRATIONS:-db/migrations}" --format "${FORMAT:-text}"
if [ -n "${SCHEMA:-}" ] || [ -f "$schema" ]; then set -- "$@" --schema "$schema"; fi
if [ -n "${STATS:-}" ]; then set -- "$@" --stats "$STATS"; fi
if [ -n "${BASELINE:-}" ]; then set -- "$@" --baseline "$BASELINE"; fi
if [ -n "${OUTPUT:-}" ]; then set -- "$@" --output "$OUTPUT"; fi
if [ -n "$base" ]; then
    since=$(git merge-base "$base" HEAD) || {
        echo "lint-migrations: '$base' and HEAD have no common commit here: fetch the whole history" >&2
        exit 2
    }
    set -- "$@" --changed-since "$since"
fi
exec dbsec migrate lint "$@"
