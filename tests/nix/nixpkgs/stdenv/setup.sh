# The environment of a build: sourced by the builder and by `nix develop`.
export PATH=
for input in ${nativeBuildInputs-} ${buildInputs-}; do
    if [ -d "$input/bin" ]; then PATH="$PATH:$input/bin"; fi
    if [ -d "$input/include" ]; then export NIX_CFLAGS_COMPILE="${NIX_CFLAGS_COMPILE-} -isystem $input/include"; fi
    if [ -d "$input/lib" ]; then export NIX_LDFLAGS="${NIX_LDFLAGS-} -L$input/lib -Wl,-rpath,$input/lib"; fi
    # A development output names the outputs that go with it.
    if [ -e "$input/nix-support/propagated-libs" ]; then
        for lib in $(< "$input/nix-support/propagated-libs"); do
            export NIX_LDFLAGS="${NIX_LDFLAGS-} -L$lib/lib -Wl,-rpath,$lib/lib"
        done
    fi
done
PATH="${PATH#:}${PATH:+:}$initialPath"
PATH="${PATH#:}"

runPhase() {
    echo "phase: $1"
    if [ -n "${!1-}" ]; then eval "${!1}"; elif declare -F "$1" > /dev/null; then "$1"; fi
}

unpackPhase() {
    if [ -n "${src-}" ]; then
        cp -r "$src" source
        chmod -R u+w source
        cd source
    fi
}

buildPhase() {
    if [ -e Makefile ]; then make ${makeFlags-}; fi
}

checkPhase() {
    if [ -n "${doCheck-}" ]; then make ${makeFlags-} check; fi
}

installPhase() {
    if [ -e Makefile ]; then make ${makeFlags-} install "prefix=$out"; fi
}

genericBuild() {
    if [ -n "${buildCommand-}" ]; then
        eval "$buildCommand"
        return
    fi
    for phase in unpackPhase buildPhase checkPhase installPhase; do runPhase $phase; done
}
