//! Paths as anyone may ask for them: one resource has one path, and no path leaves the log.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_trustchain::log::serve::Resource;
use stoq_trustchain::log::tile::TilePath;

fuzz_target!(|text: &str| {
    if let Ok(tile) = text.parse::<TilePath>() {
        assert_eq!(tile.to_string(), text);
        assert!(tile.complete_at() > 0);
    }
    if let Some(Resource::Issuer(_) | Resource::Tile(_)) = Resource::parse(text) {
        assert!(!text.contains(".."));
    }
});
