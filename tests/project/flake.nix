{
  description = "A small C library and its program, to be built in a seed";

  # The inputs are made by tests/nix/setup; tests/nix/run shows them at these places.
  inputs = {
    nixpkgs.url = "file:///nix/var/inputs/nixpkgs.tar.gz";
    toolbox = {
      url = "git+file:///nix/var/inputs/toolbox";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    words = {
      url = "path:/nix/var/inputs/words";
      flake = false;
    };
    greeting = {
      url = "git+file:///nix/var/inputs/greeting";
      flake = false;
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      toolbox,
      words,
      greeting,
    }:
    let
      pkgs = nixpkgs.legacyPackages.x86_64-linux;
      tools = toolbox.packages.x86_64-linux;

      # Import from derivation, of the project's own source: built anew in the seed whenever it changes.
      release = import (
        pkgs.runCommand "release.nix" { nativeBuildInputs = [ pkgs.mawk ]; } ''
          awk '{ print "{ version = \"" $1 "\"; }" }' ${./VERSION} > $out
        ''
      );
      # Import from derivation, of an input alone: built once, when the seed is packed.
      statistics = import (
        pkgs.runCommand "statistics.nix" { nativeBuildInputs = [ pkgs.gnused ]; } ''
          echo "{ words = $(sed -n '$=' ${words}/words.txt); }" > $out
        ''
      );

      # What a package manager would download: fixed by its hash, and not by the way it is had.
      vendored = pkgs.mkDerivation {
        pname = "sprout-vendored";
        version = "1";
        nativeBuildInputs = [ pkgs.xz ];
        outputHashMode = "recursive";
        outputHashAlgo = "sha256";
        outputHash = "sha256-rVh+JOHu/EEfymEmLxtp8L9RVpSedEMJ71bdYlf6TKo=";
        buildCommand = ''
          mkdir $out
          tar -xf /nix/var/inputs/vendored.tar.xz -C $out
        '';
      };

      sprout = pkgs.mkDerivation {
        pname = "sprout";
        inherit (release) version;
        src = self;
        outputs = [
          "bin"
          "lib"
          "dev"
          "out"
        ];
        nativeBuildInputs = [ tools.tabulate ];
        makeFlags = "WORDS=${words}/words.txt GREETING=${greeting}/greeting.txt VENDORED=${vendored} COUNT=${toString statistics.words}";
        doCheck = true;
        installPhase = ''
          make $makeFlags install bindir=$bin/bin libdir=$lib/lib includedir=$dev/include datadir=$out/share
        '';
      };
    in
    {
      packages.x86_64-linux = {
        default = sprout;
        inherit sprout;
      };

      apps.x86_64-linux.default = {
        type = "app";
        program = "${sprout.bin}/bin/sprout";
      };

      devShells.x86_64-linux.default = pkgs.mkShell {
        name = "sprout-shell";
        packages = [
          pkgs.diffutils
          tools.tabulate
        ];
        VENDORED = vendored;
      };
    };
}
