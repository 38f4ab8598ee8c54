# Builds one Nix: the program and every shared library that it needs, loader included, in one store path.
mkdir root
for deb in $debs; do dpkg-deb -x "$deb" root; done

patchelf() { "$loader" --library-path "$loaderPath" "$patchelf" "$@"; }
find_library() {
    for dir in usr/lib/x86_64-linux-gnu lib/x86_64-linux-gnu usr/lib/nix usr/lib lib usr/lib64 lib64; do
        if [ -e root/$dir/$1 ]; then echo root/$dir/$1; return; fi
    done
    echo "no library $1 for Nix in its packages" >&2
    return 1
}

mkdir -p "$out/bin" "$out/lib" "$out/libexec/nix"
cp root/usr/bin/nix "$out/libexec/nix/nix"
chmod u+w "$out/libexec/nix/nix"
# Nix decides by its own name what to do, and starts itself again by a path that was compiled in, unless told.
for name in nix nix-build nix-channel nix-collect-garbage nix-copy-closure nix-daemon nix-env nix-hash \
    nix-instantiate nix-prefetch-url nix-shell nix-store; do
    [ $name = nix ] || ln -s nix "$out/libexec/nix/$name"
    cat > "$out/bin/$name" <<WRAPPER
#!$shell sh
export NIX_BIN_DIR=$out/bin NIX_LIBEXEC_DIR=$out/libexec
exec $out/libexec/nix/$name "\$@"
WRAPPER
    chmod 755 "$out/bin/$name"
done
ln -s nix "$out/libexec/nix/build-remote"

# The resolver is loaded by name, at run time.
wanted="libnss_dns.so.2 $(patchelf --print-needed "$out/libexec/nix/nix")"
while [ -n "$wanted" ]; do
    next=
    for library in $wanted; do
        [ ! -e "$out/lib/$library" ] || continue
        cp -L "$(find_library "$library")" "$out/lib/$library"
        next="$next $(patchelf --print-needed "$out/lib/$library")"
    done
    wanted=$next
done
chmod u+w "$out"/lib/*
# A library with a search path of its own would not use the program's.
for library in "$out"/lib/*; do
    [ -z "$(patchelf --print-rpath "$library")" ] || patchelf --remove-rpath "$library"
done
patchelf --set-interpreter "$out/lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$out/lib" "$out/libexec/nix/nix"
"$out/bin/nix" --version
