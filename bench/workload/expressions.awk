# Writes a source tree in the shape of nixpkgs: COUNT package expressions, each in a directory of its own
# under pkgs/<shard>/, all-packages.nix, which names them all, and evaluated.nix, the names of the EVALUATED
# packages that an evaluation reads, spread over all shards and in no order of the file system.
#   awk -v count=40000 -v evaluated=1000 -f expressions.awk, in the directory to write to
function random(limit) {
    # The minimal standard generator, whose products a double holds exactly: the same tree on every machine.
    seed = (seed * 16807) % 2147483647
    return seed % limit
}

function word(    i, text) {
    text = ""
    for (i = 0; i < 2 + random(2); i++) text = text syllable[random(syllables)]
    return text
}

function sentence(words,    i, text) {
    text = word()
    for (i = 1; i < words; i++) text = text " " word()
    return text
}

function base64(length_,    i, text) {
    text = ""
    for (i = 0; i < length_; i++) text = text substr(alphabet, 1 + random(64), 1)
    return text
}

function expression(name,    i, input, arguments, inputs, phases) {
    arguments = ""; inputs = ""; phases = ""
    for (i = 0; i < random(7); i++) {
        # The number keeps the names of one expression apart.
        input = word() i
        arguments = arguments ",\n  " input
        inputs = inputs "\n    " input
    }
    for (i = 0; i < random(4); i++)
        phases = phases "\n    substituteInPlace " word() "/" word() ".c --replace-fail /usr/" word() " $out/" word()
    return "{\n  lib,\n  mkDerivation,\n  fetchurl" arguments ",\n  ...\n}:\n\n" \
        "mkDerivation rec {\n  pname = \"" name "\";\n  version = \"" random(9) "." random(40) "." random(12) "\";\n\n" \
        "  src = fetchurl {\n    url = \"https://example.org/" word() "/" name "/releases/${version}/" name "-${version}.tar.gz\";\n" \
        "    hash = \"sha256-" base64(43) "=\";\n  };\n\n" \
        "  buildInputs = [" inputs "\n  ];\n\n  postPatch = ''" phases "\n  '';\n\n" \
        "  configureFlags = [\n    \"--with-" word() "\"\n    \"--without-" word() "\"\n  ];\n\n" \
        "  doCheck = " (random(2) ? "true" : "false") ";\n\n" \
        "  meta = {\n    description = \"" sentence(4 + random(6)) "\";\n" \
        "    longDescription = ''\n      " sentence(12 + random(20)) "\n      " sentence(random(25) + 1) "\n    '';\n" \
        "    homepage = \"https://example.org/" word() "/" name "\";\n    license = \"" word() "\";\n    platforms = [ \"x86_64-linux\" ];\n  };\n}\n"
}

BEGIN {
    seed = 20011
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    syllables = split("ka lo mi ser ton var del pri stu qua ren bo chi fal gra hy in jo lex mon nor op pel ru sa tel un vi wo xen", parts, " ")
    for (i = 1; i <= syllables; i++) syllable[i - 1] = parts[i]

    # All directories in one command: a process for each would take minutes.
    makedirs = "xargs mkdir -p"
    for (i = 0; i < count; i++) {
        name[i] = word() "-" sprintf("%05d", i)
        path[i] = "pkgs/" substr(name[i], 1, 2) sprintf("%02d", i % 40) "/" name[i]
        print path[i] | makedirs
    }
    close(makedirs)

    all = "all-packages.nix"
    print "# Every package, by name." > all
    print "{" > all
    for (i = 0; i < count; i++) {
        file = path[i] "/default.nix"
        printf "%s", expression(name[i]) > file
        close(file)
        print "  \"" name[i] "\" = ./" path[i] ";" > all
    }
    print "}" > all

    list = "evaluated.nix"
    print "# What an evaluation of the development shell reads." > list
    print "[" > list
    stride = int(count / evaluated)
    # A multiplier without a factor in common with the number of names visits each once.
    for (i = 0; i < evaluated; i++) print "  \"" name[((i * 617) % evaluated) * stride + random(stride)] "\"" > list
    print "]" > list
}
