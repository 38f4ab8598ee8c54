//! A manifest, an index or a configuration from a registry: what is read is written so that it reads as the
//! same, and reads in one way only.
#![no_main]

use seed_image::manifest::{Config, Index, Manifest, ManifestKind};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let manifest = Manifest::parse(data);
    let index = Index::parse(data);
    assert!(manifest.is_err() || index.is_err());
    if let Ok(manifest) = manifest {
        assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
    }
    if let Ok(index) = index {
        assert_eq!(Index::parse(&index.to_bytes()).unwrap(), index);
    }
    if let Ok(config) = Config::parse(data) {
        assert_eq!(Config::parse(&config.to_bytes()).unwrap(), config);
    }
    let _ = ManifestKind::parse(data, None);
});
