#!/bin/sh
# Compile locks/NAME.txt for each name: every wheel of every platform with its hash, and no host.
# All of them are constrained by locks/test.txt, which is compiled first, so that no two disagree.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/uv"
"$scratch/uv/bin/pip" install --quiet uv

compile() { # compile NAME ARGUMENT...
    name=$1; shift
    "$scratch/uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
        --output-file "$scratch/$name.txt" "$@"
    { echo "# locks/$name.txt: made by 'make lock' from pyproject.toml"; cat "$scratch/$name.txt"; } >"locks/$name.txt"
    echo "locks/$name.txt"
}

echo hatchling >"$scratch/build.in"
compile test pyproject.toml "$scratch/build.in" --group test --all-extras
for name in "$@"; do
    case $name in
        test) ;;
        core) compile core pyproject.toml --constraint locks/test.txt ;;
        demo) compile demo pyproject.toml "$scratch/build.in" --extra lab --extra migrations --extra screens --constraint locks/test.txt ;;
        *) compile "$name" pyproject.toml --extra "$name" --constraint locks/test.txt ;;
    esac
done

# a benchmark's peers, each alone: their dependencies must not move ours
for peer in alembic aws-encryption-sdk secrets-cache sqlalchemy-utils squawk-cli sslyze tink; do
    case $peer in
        aws-encryption-sdk) asked="$peer[MPL]" ;;
        secrets-cache) asked="aws-secretsmanager-caching cachetools" ;;
        sqlalchemy-utils) asked="$peer sqlalchemy cryptography psycopg[binary]" ;;
        *) asked=$peer ;;
    esac
    printf '%s\n' $asked >"$scratch/$peer.in"
    "$scratch/uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-annotate --no-header --output-file "benchmarks/peers/$peer.txt" "$scratch/$peer.in"
    echo "benchmarks/peers/$peer.txt"
done
