# The further commands, which the peers run behind the build. Each is a script for the store's own bash; it needs
# nothing of the client but /nix, and no program on PATH. Sourced by peers/session.sh.
#
# They start programs of Debian packages by the store's dynamic loader, since those ask for one in /lib64. There
# is no Python among them: its package in the workload lacks libexpat, which it needs to start.

commands=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The store path whose name begins so; nothing where the workload has none.
path_of() { grep -m1 "^/nix/store/[a-z0-9]*-$1" <(grep -v '\.drv$' "$WORKLOAD/paths") || true; }

# command_names: prints the names of those that the workload has programs for.
command_names() {
    echo compile
    [ -z "$(path_of openjdk-17-jre-headless)" ] || echo java
}

# script_of NAME
script_of() {
    local loader library libraries=
    loader=$(path_of 'glibc-[0-9.]*-[^-]*$')/lib
    for library in gmp mpfr mpc isl zlib zstd-libs gcc-libs; do libraries+=$(path_of "$library-")/lib:; done
    local start="$loader/ld-linux-x86-64.so.2 --library-path $libraries$loader"
    case $1 in
    compile)
        local cxx
        cxx=$(path_of g++-12)
        if [ -z "$cxx" ]; then
            echo "$(path_of cc-wrapper-)/bin/cc -O2 -x c -S -o - - > /dev/null << 'SOURCE'"
            cat "$commands/words.c"
        else
            local library=$(path_of libstdc++-12-dev)/usr/include c=$(path_of libc6-dev)/usr/include
            local kernel=$(path_of linux-libc-dev)/usr/include
            local headers=("$library/c++/12" "$library/x86_64-linux-gnu/c++/12"
                "$(path_of libgcc-12-dev)/usr/lib/gcc/x86_64-linux-gnu/12/include"
                "$(path_of libboost1.74-dev)/usr/include"
                "$c" "$c/x86_64-linux-gnu" "$kernel" "$kernel/x86_64-linux-gnu")
            echo "$start $cxx/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -quiet -nostdinc -D_GNU_SOURCE -std=c++17 -O0" \
                "$(printf -- '-isystem %s ' "${headers[@]}") - -o - > /dev/null << 'SOURCE'"
            cat "$commands/words.cpp"
        fi
        echo SOURCE
        ;;
    java)
        local home
        home=$(path_of openjdk-17-jre-headless)/usr/lib/jvm/java-17-openjdk-amd64
        echo "$start:$home/lib:$home/lib/server $home/bin/java -version 2> /dev/null"
        ;;
    esac
}
