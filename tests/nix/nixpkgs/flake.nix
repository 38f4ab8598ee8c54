{
  description = "A small package set in the shape of nixpkgs, its binaries taken from Debian";

  outputs =
    { self }:
    {
      legacyPackages.x86_64-linux = import ./default.nix { system = "x86_64-linux"; };
    };
}
