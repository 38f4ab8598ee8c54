# The second half of `setup`, run where the new directory is /nix: builds the package set with the unpacked
# Nix, then again nothing is needed but what is in the store.
set -euo pipefail
export HOME=$work/home XDG_CACHE_HOME=$work/home/cache NIX_CONF_DIR=$work/conf
mkdir -p "$HOME" "$NIX_CONF_DIR"
loader=$work/boot/lib64/ld-linux-x86-64.so.2
libraries=$work/boot/usr/lib/x86_64-linux-gnu:$work/boot/lib/x86_64-linux-gnu:$work/boot/usr/lib/nix
# Nix decides by its own name what to do.
nix() { "$loader" --argv0 "$1" --library-path "$libraries" "$work/boot/usr/bin/nix" "${@:2}"; }

cat > "$NIX_CONF_DIR/nix.conf" <<CONF
experimental-features = nix-command flakes ca-derivations
sandbox = true
sandbox-fallback = false
build-users-group =
substituters =
builders =
build-hook = $work/boot/build-hook
CONF
# Nix starts itself again to ask for remote builders; by its own name it would find the loader.
cat > "$work/boot/build-hook" <<HOOK
#!/bin/sh
exec $loader --argv0 build-remote --library-path $libraries $work/boot/usr/bin/nix "\$@"
HOOK
chmod +x "$work/boot/build-hook"

debs_by_name=$work/by-name
mkdir -p "$debs_by_name"
while read -r package _; do cp -l "$debs/bookworm/$package.deb" "$debs_by_name/$package.deb"; done < "$work/packages"
set -- $suites
for version in $versions; do
    while read -r package _; do
        cp -l "$debs/$1/$package.deb" "$debs_by_name/$1-$package.deb"
    done < "$work/nix-$version"
    shift
done
nix nix-store --add-fixed sha256 "$debs_by_name"/*.deb > /dev/null
rm -rf "$debs_by_name"
nix nix-store --add-fixed --recursive sha256 "$work/bootstrap-tools" > /dev/null
sed -i "s/@bootstrap@/$(nix nix-hash --type sha256 "$work/bootstrap-tools")/" "$work/nixpkgs/debian.json"

# What the flakes of the demo project are locked to, at the places that their flake.nix names.
inputs=/nix/var/inputs
mkdir -p "$inputs"
pack() { tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --mode=u+w,go-w,a+r -C "$1" -c "$2"; }
pack "$work" nixpkgs | gzip -n > "$inputs/nixpkgs.tar.gz"
pack "$here/inputs" style | gzip -n > "$inputs/style.tar.gz"
pack "$here/inputs/vendored" . | xz > "$inputs/vendored.tar.xz"
for tree in manual words; do
    cp -r "$here/inputs/$tree" "$inputs/$tree"
    find "$inputs/$tree" -exec touch -d @1 {} +
done
for repository in toolbox greeting; do
    cp -r "$here/inputs/$repository" "$inputs/$repository"
    (
        cd "$inputs/$repository"
        export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE="@1 +0000" GIT_COMMITTER_DATE="@1 +0000"
        export GIT_AUTHOR_NAME=inputs GIT_AUTHOR_EMAIL=inputs@localhost
        export GIT_COMMITTER_NAME=inputs GIT_COMMITTER_EMAIL=inputs@localhost
        git init -q -b main .
        git add .
        git commit -q -m "Input of the demo project"
    )
done

nix nix-build --no-out-link "$work/nixpkgs" --argstr system x86_64-linux > "$work/built"
# Newer ones bring a link as a link, so the program itself is named.
sh=$(grep -- '-busybox-' "$work/built")
cat > "$NIX_CONF_DIR/nix.conf" <<CONF
experimental-features = nix-command flakes ca-derivations
sandbox = true
sandbox-fallback = false
sandbox-paths = /bin/sh=$sh/bin/busybox $inputs
build-users-group =
substituters =
builders =
flake-registry =
CONF
for version in $versions; do
    echo "$version $(nix nix-build --no-out-link "$work/nixpkgs" --argstr system x86_64-linux \
        --arg releases "builtins.fromJSON (builtins.readFile $work/releases.json)" -A "nixVersions.\"$version\"")"
done > "$work/versions"
rm -rf "$HOME"
