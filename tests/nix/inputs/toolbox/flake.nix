{
  description = "Build tools of the demo project";

  inputs = {
    nixpkgs.url = "file:///nix/var/inputs/nixpkgs.tar.gz";
    style = {
      url = "file:///nix/var/inputs/style.tar.gz";
      flake = false;
    };
    # Locked, and read by nothing.
    manual = {
      url = "path:/nix/var/inputs/manual";
      flake = false;
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      style,
      manual,
    }:
    let
      pkgs = nixpkgs.legacyPackages.x86_64-linux;
    in
    {
      # Turns a list of words into a C table.
      packages.x86_64-linux.tabulate = pkgs.runCommand "tabulate" { inherit style; } ''
        mkdir -p $out/bin
        {
          echo "#!${pkgs.bash}/bin/bash"
          cat $style/banner.sh ${./tabulate.sh}
        } > $out/bin/tabulate
        chmod +x $out/bin/tabulate
      '';
    };
}
