PATH=$coreutils
mkdir -p "$out"
{
    echo "export SHELL=$shell"
    echo "initialPath='${initialPath// /:}'"
    cat "$setup"
} > "$out/setup"
