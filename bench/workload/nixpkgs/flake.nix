{
  description = "The package set of the benchmark: a toolchain, large packages, and many expressions";

  outputs =
    { self }:
    let
      system = "x86_64-linux";
      toolchain = import ./default.nix { inherit system; };
    in
    {
      legacyPackages.${system} = toolchain // import ./collection.nix { inherit system; };
    };
}
