# Builds one package: the files of the Debian packages $debs, in the shape $out/{bin,lib,share}.
# Every program is bound to the loader and to the library directories $libPath.
mkdir root
for deb in $debs; do dpkg-deb -x "$deb" root; done

mkdir -p "$out"
for dir in bin sbin usr/bin usr/sbin; do
    if [ -d root/$dir ]; then mkdir -p "$out/bin" && cp -a root/$dir/. "$out/bin/"; fi
done
for dir in lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu; do
    if [ -d root/$dir ]; then mkdir -p "$out/lib" && cp -a root/$dir/. "$out/lib/"; fi
done
# The loader is linked from /lib64 relative to the root: bring it beside the C library.
if [ -e root/lib64/ld-linux-x86-64.so.2 ] && [ ! -e "$out/lib/ld-linux-x86-64.so.2" ]; then
    cp root/lib64/ld-linux-x86-64.so.2 "$out/lib/ld-linux-x86-64.so.2"
fi
if [ -d root/usr/share ]; then cp -a root/usr/share "$out/share"; fi

eval "$install"

if [ -n "$patchelf" ]; then
    find "$out" -type f -size +1k | while read -r file; do
        [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || continue
        "$loader" --library-path "$loaderPath" "$patchelf" --print-interpreter "$file" >/dev/null 2>&1 || continue
        chmod u+w "$file"
        # The old-style search path also holds for the libraries that the program's libraries need.
        "$loader" --library-path "$loaderPath" "$patchelf" \
            --set-interpreter "$loader" --force-rpath --set-rpath "$libPath" "$file"
    done
fi
