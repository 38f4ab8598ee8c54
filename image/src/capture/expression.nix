# What a flake's outputs are made of. Applied to the flake by a call that ends this text.
{
  url,
  system,
  # Attribute paths, as lists of names; empty for all outputs.
  wanted,
}:
let
  flake = builtins.getFlake url;
  plain = builtins.unsafeDiscardStringContext;
  isDerivation = value: builtins.isAttrs value && (value.type or null) == "derivation";

  derivation = value: {
    derivation = plain value.drvPath;
    outputs = value.outputs or [ "out" ];
  };

  # What a string, such as an app's program, leads to.
  ofText =
    text:
    let
      context = builtins.getContext text;
    in
    map (path: {
      derivation = path;
      outputs = context.${path}.outputs;
    }) (builtins.filter (path: context.${path} ? outputs) (builtins.attrNames context));

  uses =
    value:
    if isDerivation value then
      [ (derivation value) ]
    else if builtins.isAttrs value && value ? program then
      ofText value.program
    else
      null;

  find =
    path: from:
    if path == [ ] then
      { found = from; }
    else if builtins.isAttrs from && from ? ${builtins.head path} then
      find (builtins.tail path) from.${builtins.head path}
    else
      null;

  kinds = [
    "packages"
    "devShells"
    "checks"
    "apps"
  ];

  target = attribute: value: {
    inherit attribute;
    uses = uses value;
  };

  # A name as users type it, or a full attribute path.
  named =
    path:
    let
      places = [ path ] ++ map (kind: [ kind system ] ++ path) (kinds ++ [ "legacyPackages" ]);
      found = builtins.filter (place: (find place flake.outputs) != null) places;
    in
    if found == [ ] then
      {
        attribute = path;
        uses = null;
      }
    else
      target (builtins.head found) (find (builtins.head found) flake.outputs).found;

  all = builtins.concatMap (
    kind:
    let
      outputs = flake.outputs.${kind}.${system} or { };
    in
    map (
      name:
      target [
        kind
        system
        name
      ] outputs.${name}
    ) (builtins.attrNames outputs)
  ) kinds;

  nixpkgs = flake.inputs.nixpkgs.legacyPackages.${system} or { };

  program =
    name:
    let
      value = nixpkgs.${name} or null;
    in
    if isDerivation value then
      {
        derivation = plain value.drvPath;
        outputs = value.meta.outputsToInstall or [ (value.outputName or "out") ];
      }
    else
      null;
in
{
  targets = if wanted == [ ] then all else map named wanted;
  shell = program "bashInteractive";
  tools = program "coreutils";
  certificates = program "cacert";
}
