# What a project finds beside the toolchain.
{ system }:
let
  # Fixed-output derivations whose outputs are in the store already, so nothing fetches them.
  fixed =
    { name, sha256 }:
    derivation {
      inherit name system;
      builder = "builtin:fetchurl";
      url = "https://example.org/${name}";
      outputHash = sha256;
      outputHashAlgo = "sha256";
      outputHashMode = "recursive";
      preferLocalBuild = true;
    };

  all = import ./all-packages.nix;
  callPackage =
    name:
    let
      expression = import all.${name};
      inputs = builtins.mapAttrs (input: _: all.${input} or null) (builtins.functionArgs expression);
    in
    expression (
      inputs
      // {
        mkDerivation = attrs: attrs // { name = "${attrs.pname}-${attrs.version}"; };
        fetchurl = attrs: attrs.url;
      }
    );
in
{
  # Written by the set-up: name and hash of each store path made of a Debian package.
  large = map fixed (builtins.fromJSON (builtins.readFile ./large.json));

  # The names of the packages that an evaluation reads: as many files, spread over the whole tree.
  evaluated = map (name: (callPackage name).name) (import ./evaluated.nix);
}
