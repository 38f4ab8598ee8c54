use seed_format::Chain;

use super::*;

fn file(text: &str) -> (tempfile::NamedTempFile, CredentialOptions) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let options = CredentialOptions { files: vec![file.path().to_owned()], ..Default::default() };
    (file, options)
}

fn password(user: &str, password: &str) -> Option<Credential> {
    Some(Credential::Password { user: user.into(), password: Secret::new(password) })
}

#[test]
fn the_most_specific_entry_decides() {
    let auth = |text: &str| BASE64.encode(text.as_bytes());
    let (_file, options) = file(&format!(
        r#"{{"auths":{{"ghcr.io":{{"auth":"{}"}},"ghcr.io/owner":{{"auth":"{}"}},"ghcr.io/owner/app":{{"username":"c","password":"3"}},
            "https://index.docker.io/v1/":{{"auth":"{}"}},"https://old.example:5000/v2/":{{"identitytoken":"t"}},
            "empty.example":{{}}}},"unknown":[1]}}"#,
        auth("a:1"),
        auth("b:2:colons"),
        auth("d:4\0\0"),
    ));
    for (host, repository, expected) in [
        ("ghcr.io", "x", password("a", "1")),
        ("ghcr.io", "owners/app", password("a", "1")),
        ("ghcr.io", "owner/other", password("b", "2:colons")),
        ("ghcr.io", "owner/app", password("c", "3")),
        ("ghcr.io", "owner/app/deep", password("c", "3")),
        ("docker.io", "library/alpine", password("d", "4")),
        ("old.example:5000", "x", Some(Credential::Identity(Secret::new("t")))),
        ("old.example", "x", None),
        ("empty.example", "x", None),
    ] {
        assert_eq!(options.find(host, repository, true).unwrap(), expected, "{host}/{repository}");
    }
}

#[test]
fn named_registries_get_more_than_mirrors() {
    let options = CredentialOptions {
        user: Some(("u".into(), Secret::new("p"))),
        files: vec!["/nonexistent".into()],
        github_token: Some(Secret::new("g")),
    };
    assert_eq!(options.find("ghcr.io", "a", true).unwrap(), password("u", "p"));
    assert_eq!(options.find("ghcr.io", "a", false).unwrap(), None);
    let options = CredentialOptions { user: None, ..options };
    assert_eq!(options.find("ghcr.io", "a", true).unwrap(), password("x-access-token", "g"));
    assert_eq!(options.find("example.org", "a", true).unwrap(), None);
}

#[test]
fn malformed_files_are_errors_without_secrets() {
    for text in [
        "{",
        r#"{"auths":{"h.x":{"auth":"hunter2!"}}}"#,
        r#"{"auths":{"h.x":{"auth":"aHVudGVyMg=="}}}"#,
        r#"{"auths":{"h.x":{"password":"hunter2"},"h.x":{}}}"#,
        r#"{"auths":["hunter2"]}"#,
        r#"{"credHelpers":{"h.x":"../hunter2"}}"#,
        r#"{"credsStore":"-x y"}"#,
        r#"{"credsStore":"is-not-installed-anywhere"}"#,
    ] {
        let (_file, options) = file(text);
        let error = options.find("h.x", "a", true).unwrap_err();
        let shown = format!("{error:?} {}", Chain(&error));
        // The name of a helper is no secret.
        assert!(text.contains("credHelpers") || !shown.contains("hunter2"), "{shown}");
    }
    let (_file, options) = file(" \n");
    assert_eq!(options.find("h.x", "a", true).unwrap(), None);
    assert_eq!(
        format!("{:?}", password("user", "hunter2")),
        r#"Some(Password { user: "user", password: [secret] })"#
    );
}
