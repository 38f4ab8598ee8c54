# The package set. Each package unpacks Debian packages and binds what it runs to the store: program
# interpreter and library search path name store paths, so that Nix finds the references by scanning.
{
  system,
  # Nix releases: name → { version, packages = [ { name, sha256 } ] }. The set-up may add more.
  releases ? debian.nix,
  # Written by the set-up: name → { version, sha256 } of each Debian package, and the packages of Nix 2.8.
  debian ? builtins.fromJSON (builtins.readFile ./debian.json),
}:
let
  # A fixed-output derivation whose output the set-up has put in the store already.
  fetched =
    name: mode: sha256:
    derivation {
      inherit name system;
      builder = "builtin:fetchurl";
      url = "http://localhost/${name}";
      executable = mode == "recursive";
      unpack = false;
      outputHash = sha256;
      outputHashAlgo = "sha256";
      outputHashMode = mode;
      preferLocalBuild = true;
    };

  deb = name: fetched "${name}.deb" "flat" debian.packages.${name}.sha256;
  # One static program with a shell and the tools that unpack: all that the first builds need.
  bootstrap = fetched "bootstrap-tools" "recursive" debian.bootstrap;
  busybox = "${bootstrap}/busybox";

  unpack =
    {
      pname,
      debs ? [ pname ],
      version ? debian.packages.${builtins.head debs}.version,
      libs ? [ ],
      outputs ? [ "out" ],
      install ? "",
      ...
    }@attrs:
    derivation (
      removeAttrs attrs [ "libs" ]
      // {
        inherit system outputs install;
        name = "${pname}-${version}";
        builder = busybox;
        args = [
          "sh"
          "-e"
          ./unpack.sh
        ];
        debs = map deb debs;
        libPath = builtins.concatStringsSep ":" (map (lib: "${lib}/lib") libs);
        patchelf = if attrs.bootstrap or false then "" else "${patchelfUnpatched}/bin/patchelf";
        loader = if attrs.bootstrap or false then "" else "${glibc}/lib/ld-linux-x86-64.so.2";
        loaderPath = if attrs.bootstrap or false then "" else "${glibc}/lib:${gccLibs}/lib";
      }
    );

  library =
    name: debs:
    unpack {
      pname = name;
      inherit debs;
      install = "rm -rf $out/bin $out/share";
      bootstrap = true;
    };

  glibc = unpack {
    pname = "glibc";
    debs = [
      "libc6"
      "libc6-dev"
      "linux-libc-dev"
    ];
    outputs = [
      "out"
      "dev"
    ];
    bootstrap = true;
    install = ''
      rm -rf $out/bin $out/share
      mkdir -p $dev/usr/lib $dev/lib
      cp -a root/usr/include $dev/usr/include
      cp -a root/usr/lib/x86_64-linux-gnu $dev/usr/lib/x86_64-linux-gnu
      rm -rf $dev/usr/lib/x86_64-linux-gnu/gconv $dev/usr/lib/x86_64-linux-gnu/audit
      ln -s $out/lib $dev/lib/x86_64-linux-gnu
      ln -s $out/lib $dev/lib64
      # Development files do not belong to the runtime.
      rm -f $out/lib/*.a $out/lib/*.o $out/lib/libc.so $out/lib/libm.so
      for link in $out/lib/*.so; do [ ! -L $link ] || rm $link; done
      # The links of the development package point at the machine's own /lib.
      for link in $dev/usr/lib/x86_64-linux-gnu/*.so; do
        if [ -L $link ]; then ln -sfn $out/lib/$(basename $(readlink $link)) $link; fi
      done
      rm -rf $out/lib/gconv $out/lib/audit
    '';
  };
  gccLibs = library "gcc-libs" [
    "libgcc-s1"
    "libstdc++6"
  ];
  patchelfUnpatched = unpack {
    pname = "patchelf";
    bootstrap = true;
  };

  acl = library "acl" [ "libacl1" ];
  attr = library "attr" [ "libattr1" ];
  binutilsLibs = library "binutils-libs" [
    "libbinutils"
    "libctf0"
    "libctf-nobfd0"
    "libgprofng0"
  ];
  gmp = library "gmp" [ "libgmp10" ];
  isl = library "isl" [ "libisl23" ];
  jansson = library "jansson" [ "libjansson4" ];
  lzma = library "lzma" [ "liblzma5" ];
  mpc = library "mpc" [ "libmpc3" ];
  mpfr = library "mpfr" [ "libmpfr6" ];
  ncursesLibs = library "ncurses-libs" [ "libtinfo6" ];
  pcre2 = library "pcre2" [ "libpcre2-8-0" ];
  selinux = library "selinux" [ "libselinux1" ];
  bz2 = library "bz2" [ "libbz2-1.0" ];
  zlib = library "zlib" [ "zlib1g" ];
  zstdLibs = library "zstd-libs" [ "libzstd1" ];

  bash = unpack {
    pname = "bash";
    libs = [
      glibc
      ncursesLibs
    ];
    install = ''
      rm -rf $out/share
      ln -s bash $out/bin/sh
    '';
  };
  coreutils = unpack {
    pname = "coreutils";
    libs = [
      glibc
      acl
      attr
      gmp
      selinux
      pcre2
    ];
    install = "rm -rf $out/share";
  };
  findutils = tool "findutils" [
    glibc
    selinux
    pcre2
  ];
  diffutils = tool "diffutils" [ glibc ];
  gnugrep = tool "grep" [
    glibc
    pcre2
  ];
  gnused = tool "sed" [
    glibc
    acl
    selinux
    pcre2
    attr
  ];
  gnutar = tool "tar" [
    glibc
    acl
    selinux
    pcre2
    attr
  ];
  gzip = unpack {
    pname = "gzip";
    libs = [ glibc ];
    # The compressor alone: the scripts around it name the machine's own shell.
    install = ''
      rm -rf $out/share
      find $out/bin -type f ! -name gzip -exec rm {} +
    '';
  };
  mawk = unpack {
    pname = "mawk";
    libs = [ glibc ];
    install = ''
      rm -rf $out/share
      ln -s mawk $out/bin/awk
    '';
  };
  gnumake = tool "make" [ glibc ];
  xz = unpack {
    pname = "xz-utils";
    libs = [
      glibc
      lzma
    ];
    install = ''
      rm -rf $out/share
      find $out/bin -type f ! -name xz ! -name lzmainfo -exec rm {} +
      find $out/bin -type l -exec rm {} +
      ln -s xz $out/bin/unxz
    '';
  };

  tool =
    pname: libs:
    unpack {
      inherit pname libs;
      install = "rm -rf $out/share";
    };

  binutils = unpack {
    pname = "binutils";
    debs = [ "binutils-x86-64-linux-gnu" ];
    libs = [
      glibc
      gccLibs
      binutilsLibs
      jansson
      zlib
      zstdLibs
    ];
    install = ''
      rm -rf $out/share $out/lib
      rm -f $out/bin/*gprof* $out/bin/*dwp* $out/bin/*gold*
      for tool in $out/bin/x86_64-linux-gnu-*; do
        name=''${tool##*/x86_64-linux-gnu-}
        [ -e $out/bin/$name ] || ln -s ''${tool##*/} $out/bin/$name
      done
    '';
  };
  gcc = unpack {
    pname = "gcc";
    debs = [
      "gcc-12"
      "cpp-12"
      "libgcc-12-dev"
    ];
    libs = [
      glibc
      gccLibs
      isl
      mpc
      mpfr
      gmp
      zlib
      zstdLibs
    ];
    install = ''
      rm -rf $out/share $out/lib
      mkdir -p $out/lib
      cp -a root/usr/lib/gcc $out/lib/gcc
      rm -f $out/lib/gcc/x86_64-linux-gnu/12/lto1 $out/lib/gcc/x86_64-linux-gnu/12/lib*san* $out/bin/*lto-dump*
      # A link into the machine's own library directory: the runtime library lives in a store path here.
      rm -f $out/lib/gcc/x86_64-linux-gnu/12/libgcc_s.so*
      cp -a ${gccLibs}/lib/libgcc_s.so.1 $out/lib/gcc/x86_64-linux-gnu/12/libgcc_s.so.1
      echo "GROUP ( libgcc_s.so.1 -lgcc )" > $out/lib/gcc/x86_64-linux-gnu/12/libgcc_s.so
    '';
  };

  cc = derivation {
    name = "cc-wrapper-${debian.packages."gcc-12".version}";
    inherit
      system
      bash
      gcc
      binutils
      coreutils
      ;
    glibc = glibc.out;
    glibcDev = glibc.dev;
    builder = "${bash}/bin/bash";
    args = [
      "-e"
      ./cc-wrapper.sh
    ];
  };

  stdenv = derivation {
    name = "stdenv";
    inherit system;
    shell = "${bash}/bin/bash";
    initialPath = map (tool: "${tool}/bin") [
      coreutils
      findutils
      gnugrep
      gnused
      gnutar
      gzip
      gnumake
      bash
      cc
      binutils
    ];
    setup = ./stdenv/setup.sh;
    coreutils = "${coreutils}/bin";
    builder = "${bash}/bin/bash";
    args = [
      "-e"
      ./stdenv/make.sh
    ];
  };

  mkDerivation =
    {
      pname,
      version ? "0",
      outputs ? [ "out" ],
      buildInputs ? [ ],
      nativeBuildInputs ? [ ],
      meta ? { },
      ...
    }@attrs:
    let
      dev = input: if builtins.isAttrs input && input ? dev then input.dev else input;
    in
    derivation (
      removeAttrs attrs [ "meta" ]
      // {
        inherit system outputs stdenv;
        name = "${pname}-${version}";
        builder = "${bash}/bin/bash";
        args = [
          "-e"
          ./stdenv/builder.sh
        ];
        nativeBuildInputs = map dev nativeBuildInputs;
        buildInputs = map dev buildInputs;
      }
    )
    // {
      inherit meta;
    };

  mkShell =
    {
      name ? "shell",
      packages ? [ ],
      nativeBuildInputs ? [ ],
      ...
    }@attrs:
    mkDerivation (
      removeAttrs attrs [
        "name"
        "packages"
      ]
      // {
        pname = name;
        nativeBuildInputs = packages ++ nativeBuildInputs;
        buildCommand = "export > $out";
      }
    );

  runCommand =
    name: env: buildCommand:
    mkDerivation (
      env
      // {
        pname = name;
        inherit buildCommand;
      }
    );
  # Each Nix that the set-up brought: the program with every library that it needs in one store path.
  nixVersions = builtins.mapAttrs (
    _: release:
    derivation {
      name = "nix-${release.version}";
      inherit system;
      debs = map (package: fetched package.name "flat" package.sha256) release.packages;
      loader = "${glibc}/lib/ld-linux-x86-64.so.2";
      loaderPath = "${glibc}/lib:${gccLibs}/lib";
      patchelf = "${patchelfUnpatched}/bin/patchelf";
      shell = busybox;
      builder = busybox;
      args = [
        "sh"
        "-e"
        ./nix.sh
      ];
    }
  ) releases
  // {
    recurseForDerivations = true;
  };
in
{
  inherit
    bash
    binutils
    coreutils
    diffutils
    findutils
    gcc
    glibc
    gnugrep
    gnumake
    gnused
    gnutar
    gzip
    mawk
    mkDerivation
    mkShell
    runCommand
    stdenv
    system
    xz
    ;
  inherit cc;

  # The interactive shell is a package of its own, in no other's closure, as in nixpkgs.
  bashInteractive = unpack {
    pname = "bash-interactive";
    debs = [
      "bash"
      "ncurses-base"
    ];
    libs = [
      glibc
      ncursesLibs
    ];
    install = ''
      rm -rf $out/share
      mkdir -p $out/share
      cp -a root/lib/terminfo $out/share/terminfo
    '';
  };

  busybox = derivation {
    name = "busybox-${debian.packages.busybox-static.version}";
    inherit system busybox;
    builder = busybox;
    args = [
      "sh"
      "-ec"
      ''
        mkdir -p $out/bin
        cp $busybox $out/bin/busybox
        ln -s busybox $out/bin/sh
      ''
    ];
  };

  cacert = unpack {
    pname = "ca-certificates";
    bootstrap = true;
    install = ''
      mkdir -p $out/etc/ssl/certs
      cat root/usr/share/ca-certificates/mozilla/*.crt > $out/etc/ssl/certs/ca-bundle.crt
      rm -rf $out/bin $out/share
    '';
  };

  nix = nixVersions."2.8";
  inherit nixVersions;
}
