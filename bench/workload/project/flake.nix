{
  description = "A C program and the shell that it is developed in";

  inputs.nixpkgs.url = "path:@nixpkgs@";

  outputs =
    { self, nixpkgs }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
    in
    {
      packages.${system}.default = pkgs.mkDerivation {
        pname = "words";
        version = "1.0";
        src = ./.;
        nativeBuildInputs = [ pkgs.cc ];
      };

      devShells.${system}.default = pkgs.mkShell {
        name = "words-shell";
        packages = [ pkgs.cc ] ++ pkgs.large;
        expressions = builtins.length (builtins.filter (name: name != "") pkgs.evaluated);
      };
    };
}
