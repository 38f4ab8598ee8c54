use super::*;

fn read_text(text: &str) -> Result<Vec<HostConfig>, HostsError> {
    parse(text, Path::new("/certs.d/example.org"), &Url::parse("https://example.org/v2/").unwrap(), &[])
}

#[test]
fn keeps_the_order_of_the_file() {
    let hosts = read_text(
        r#"
        server = "https://upstream.example"
        [host."https://z.example"]
          capabilities = ["pull"]
          ca = "z.pem"
          [host."https://z.example".header]
            x-a = ["1", "2"]
        [host."http://127.0.0.1:5000/mirror"]
          capabilities = ["pull", "resolve"]
          dial_timeout = "200ms"
        [host."https://a.example/api/oci"]
          override_path = true
          ca = ["/a.pem", "b.pem"]
        [host."m.example/v2"]
        "#,
    )
    .unwrap();
    let bases: Vec<_> = hosts.iter().map(|host| host.base.as_str()).collect();
    assert_eq!(
        bases,
        [
            "https://z.example/v2/",
            "http://127.0.0.1:5000/mirror/v2/",
            "https://a.example/api/oci/",
            "https://m.example/v2/",
            "https://upstream.example/v2/"
        ]
    );
    assert_eq!(hosts[0].capabilities, Capabilities { pull: true, resolve: false, push: false });
    assert_eq!(hosts[0].ca, [Path::new("/certs.d/example.org/z.pem")]);
    assert_eq!(hosts[0].headers, [("x-a".into(), "1".into()), ("x-a".into(), "2".into())]);
    assert_eq!(hosts[1].dial_timeout, Some(Duration::from_millis(200)));
    assert_eq!(hosts[2].ca, [Path::new("/a.pem"), Path::new("/certs.d/example.org/b.pem")]);
    assert_eq!(hosts[4].capabilities, Capabilities::ALL);
}

#[test]
fn the_registry_itself_is_last() {
    assert_eq!(read_text("").unwrap()[0].base.as_str(), "https://example.org/v2/");
    let hosts = read_text("[host.\"https://mirror.example\"]").unwrap();
    assert_eq!(hosts[1].base.as_str(), "https://example.org/v2/");
    let hosts = read_text("[host.\"https://example.org\"]\ncapabilities = [\"pull\"]").unwrap();
    assert_eq!(hosts.len(), 1);
}

#[test]
fn refuses_what_it_cannot_do() {
    use HostsError as E;
    type Check = fn(&HostsError) -> bool;
    let many: String = (0..17).map(|n| format!("[host.\"https://h{n}.example\"]\n")).collect();
    let cases: &[(&str, Check)] = &[
        ("x", |e| matches!(e, E::Syntax(_))),
        ("mirror = 1", |e| matches!(e, E::Syntax(_))),
        ("[host.\"https://a\"]\nskip_verfy = true", |e| matches!(e, E::Syntax(_))),
        ("[host.\"https://a\"]\nserver = \"https://b\"", |e| matches!(e, E::Syntax(_))),
        ("skip_verify = true", |e| matches!(e, E::SkipVerify(_))),
        ("[host.\"https://a\"]\nskip_verify = true", |e| matches!(e, E::SkipVerify(_))),
        ("client = []", |e| matches!(e, E::Client)),
        ("client = [[]]", |e| matches!(e, E::Client)),
        ("client = [[\"a\", \"b\", \"c\"]]", |e| matches!(e, E::Client)),
        ("client = [\"a\", \"b\"]", |e| matches!(e, E::ManyClients(2))),
        ("client = 1", |e| matches!(e, E::Syntax(_))),
        ("capabilities = [\"all\"]", |e| matches!(e, E::Capability(_))),
        ("server = \"ftp://a\"", |e| matches!(e, E::Url(_))),
        ("server = \"https://user:pw@a\"", |e| matches!(e, E::Url(_))),
        ("[host.\"https://\"]", |e| matches!(e, E::Url(_))),
        ("dial_timeout = \"soon\"", |e| matches!(e, E::Duration(_))),
        (&many, |e| matches!(e, E::TooMany(17))),
    ];
    for (text, check) in cases {
        let error = read_text(text).unwrap_err();
        assert!(check(&error), "{text}: {error:?}");
    }
    let upstream = Url::parse("https://example.org/v2/").unwrap();
    assert!(
        parse("skip_verify = true", Path::new("/"), &upstream, &["example.org".into()]).unwrap()[0]
            .skip_verify
    );
}

#[test]
fn a_file_is_read_whole_or_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("hosts.toml");
    let upstream = Url::parse("https://example.org/v2/").unwrap();
    let comment = |len: u64| "#".repeat(usize::try_from(len).unwrap());
    std::fs::write(&file, comment(MAX_FILE)).unwrap();
    assert_eq!(read(&file, &upstream, &[]).unwrap().len(), 1);
    std::fs::write(&file, comment(MAX_FILE) + "\nno TOML").unwrap();
    assert!(matches!(read(&file, &upstream, &[]), Err(HostsError::TooLarge)));
}

#[test]
fn finds_the_file_of_a_host() {
    let home = tempfile::tempdir().unwrap();
    let directories = [home.path().join("one"), home.path().join("two")];
    let add = |name: &str| {
        let directory = home.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), "").unwrap();
    };
    assert_eq!(find(&directories, "example.org:5000"), None);
    add("two/_default");
    assert!(find(&directories, "example.org:5000").unwrap().ends_with("two/_default/hosts.toml"));
    add("two/example.org_5000_");
    assert!(find(&directories, "example.org:5000").unwrap().ends_with("two/example.org_5000_/hosts.toml"));
    add("one/example.org:5000");
    assert!(find(&directories, "example.org:5000").unwrap().ends_with("one/example.org:5000/hosts.toml"));
}

#[test]
fn a_client_is_a_file_or_a_pair() {
    let cases = [
        ("\"c.pem\"", ("c.pem", "c.pem")),
        ("[\"c.pem\"]", ("c.pem", "c.pem")),
        ("[[\"c.pem\"]]", ("c.pem", "c.pem")),
        ("[[\"c.pem\", \"\"]]", ("c.pem", "c.pem")),
        ("[[\"c.pem\", \"keys/c.key\"]]", ("c.pem", "keys/c.key")),
    ];
    for (text, (certificate, key)) in cases {
        let directory = Path::new("/certs.d/example.org");
        let files = ClientFiles { certificate: directory.join(certificate), key: directory.join(key) };
        let hosts = read_text(&format!("[host.\"https://a.example\"]\nclient = {text}")).unwrap();
        assert_eq!((hosts[0].client.as_ref(), hosts[1].client.as_ref()), (Some(&files), None), "{text}");
    }
}

#[test]
fn certificates_alone_are_as_docker_has_them() {
    let home = tempfile::tempdir().unwrap();
    let directories = [home.path().to_owned()];
    let directory = home.path().join("127.0.0.1:5000");
    std::fs::create_dir_all(&directory).unwrap();
    let add = |name: &str| std::fs::write(directory.join(name), "").unwrap();
    add("client.key");
    assert_eq!(find(&directories, "127.0.0.1:5000"), None);
    ["b.crt", "a.crt", "client.cert"].iter().for_each(|name| add(name));
    assert_eq!(find(&directories, "127.0.0.1:5000").as_ref(), Some(&directory));

    let upstream = Url::parse("http://127.0.0.1:5000/v2/").unwrap();
    let host = &read(&directory, &upstream, &[]).unwrap()[0];
    assert_eq!(host.base.as_str(), "https://127.0.0.1:5000/v2/");
    assert_eq!(host.ca, [directory.join("a.crt"), directory.join("b.crt")]);
    let client =
        ClientFiles { certificate: directory.join("client.cert"), key: directory.join("client.key") };
    assert_eq!(host.client, Some(client));

    add("other.cert");
    assert!(matches!(read(&directory, &upstream, &[]), Err(HostsError::ManyClients(2))));
    add("hosts.toml");
    assert!(find(&directories, "127.0.0.1:5000").unwrap().ends_with("hosts.toml"));
}
