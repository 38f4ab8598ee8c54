# The C compiler as a build sees it: headers and start files of the store's C library, and programs that
# name the store's loader and the libraries of the build's inputs ($NIX_CFLAGS_COMPILE, $NIX_LDFLAGS).
PATH=$coreutils/bin
mkdir -p "$out/bin"
cat > "$out/bin/gcc" <<WRAPPER
#!$bash/bin/bash
exec $gcc/bin/x86_64-linux-gnu-gcc-12 --sysroot=$glibcDev -B$binutils/bin/ \\
    -Wl,-dynamic-linker,$glibc/lib/ld-linux-x86-64.so.2 -Wl,-rpath,$glibc/lib \\
    \$NIX_CFLAGS_COMPILE "\$@" \$NIX_LDFLAGS
WRAPPER
chmod 755 "$out/bin/gcc"
ln -s gcc "$out/bin/cc"
