# What the peers share. A peer is a script of two verbs, which the runner calls:
#
#   prepare   puts what the client will fetch where the servers find it; what is there already is kept
#   run       from an empty $STATE: gets the store, enters the shell, builds the project, and runs the further
#             commands; says `mark ready`, `mark develop`, `mark build` and the command's name the moment that
#             each is done
#
# Environment of both: WORKLOAD (see workload/build), PREPARED (a directory of the peer's own, served as
# $HTTP/<peer>), REGISTRY (host:port, plain HTTP), ENTER (mounts a directory as /nix). Of `run`: STATE (empty,
# on the client's disk), PROJECT (the flake, its source changed in every run), PREPARED only to read names from.
# `run` is in a process and a mount namespace of its own, and in the client's network namespace.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/../commands/commands.sh"

# Standard output is for marks alone.
exec 3>&1 1>&2
mark() { echo "$1" >&3; }

nix_path=$(< "$WORKLOAD/nix-path")
# What is /nix: a directory; with --over DIR read-only, and what is written goes to DIR.
nix_at=("$WORKLOAD/root/nix")

# with_nix CMD…: runs CMD where the store of `nix_at` is /nix, and Nix the only thing on PATH.
with_nix() {
    "$ENTER" "${nix_at[@]}" env -i "PATH=$nix_path/bin" "HOME=$STATE/home" "NIX_CONF_DIR=$STATE/conf" "$@"
}

# As in a seed: sandboxed, offline, one user.
configure() {
    mkdir -p "$STATE/home" "$STATE/conf"
    cat > "$STATE/conf/nix.conf" <<CONF
experimental-features = nix-command flakes
sandbox = true
sandbox-fallback = false
sandbox-paths = /bin/sh=$(< "$WORKLOAD/shell")
build-users-group =
substituters =
CONF
}

develop() { with_nix nix develop --quiet --offline "path:$PROJECT" --command true; }
build() { with_nix nix build --quiet --offline --no-link "path:$PROJECT"; }

# A shell of the store, which all peers bring.
bash=$(path_of 'bash-[0-9]')/bin/bash

# inside SCRIPT: runs a script in that shell, where the store of `nix_at` is /nix.
inside() { with_nix "$bash" -ec "$1"; }

further_commands() {
    local name
    for name in $(command_names); do
        inside "$(script_of "$name")"
        mark "$name"
    done
}

# For peers that start a container of an image that has the store at /nix: the variables that it needs, as
# NAME=VALUE; and what it runs, which sends its marks to descriptor 3.
container_environment=("PATH=$nix_path/bin" USER=root HOME=/tmp "NIX_CONF_DIR=${STATE-}/conf")
container_command=("$(< "$WORKLOAD/shell")" -ec "
    echo ready >&3
    nix develop --quiet --offline 'path:${PROJECT-}' --command true
    echo develop >&3
    nix build --quiet --offline --no-link 'path:${PROJECT-}'
    echo build >&3
    while [ \$# -gt 0 ]; do
        $bash -ec \"\$2\"
        echo \$1 >&3
        shift 2
    done" sh)
for name in $(command_names); do container_command+=("$name" "$(script_of "$name")"); done

if [ "${1-}" = run ]; then configure; fi
