//! Choosing an image out of an index.

use cairn_solver::Platform;

use super::descriptor::Descriptor;

/// The manifest that suits `wanted` best, or `None`.
///
/// An exact match comes first, then older variants of the same architecture, then architectures that such a machine
/// also runs (a 64-bit one its 32-bit kin), as containerd orders them. Among equals the first wins. Attestations
/// (`unknown/unknown`) never match; an entry without a platform is taken only when nothing else fits.
pub fn select<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let wanted = wanted.normalized();
    let preferences = preferences(&wanted);
    let ranked = manifests.iter().filter_map(|manifest| {
        let rank = match &manifest.platform {
            None => preferences.len() * 2,
            Some(platform) => rank(&platform.normalized(), &wanted, &preferences)?,
        };
        Some((rank, manifest))
    });
    // `min_by_key` gives the first of equal elements.
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, manifest)| manifest)
}

fn rank(offered: &Platform, wanted: &Platform, preferences: &[(String, String)]) -> Option<usize> {
    if offered.os != wanted.os {
        return None;
    }
    let same = |(architecture, variant): &(String, String)| {
        *architecture == offered.architecture && *variant == offered.variant
    };
    let position = preferences.iter().position(same)?;
    let other_version = !wanted.os_version.is_empty() && offered.os_version != wanted.os_version;
    Some(position * 2 + usize::from(other_version))
}

/// Architectures and variants that run on `wanted`, best first.
fn preferences(wanted: &Platform) -> Vec<(String, String)> {
    let level = |variant: &str| variant.strip_prefix('v').and_then(|n| n.parse::<u8>().ok());
    let down_to = |from: u8, to: u8| (to..=from).rev().map(|n| format!("v{n}"));
    let mut list = vec![(wanted.architecture.clone(), wanted.variant.clone())];
    let mut add = |architecture: &str, variants: &mut dyn Iterator<Item = String>| {
        list.extend(variants.map(|variant| (architecture.to_owned(), variant)));
    };
    match wanted.architecture.as_str() {
        "amd64" => {
            let level = level(&wanted.variant).filter(|n| (2..=4).contains(n)).unwrap_or(1);
            add("amd64", &mut down_to(level - 1, 2));
            add("amd64", &mut std::iter::once(String::new()));
            add("386", &mut std::iter::once(String::new()));
        }
        "arm64" => {
            let level = level(&wanted.variant).filter(|n| *n == 9).unwrap_or(8);
            if level == 9 {
                add("arm64", &mut std::iter::once(String::new()));
            }
            add("arm", &mut down_to(8, 5));
        }
        "arm" => {
            let level = level(&wanted.variant).filter(|n| (5..=8).contains(n)).unwrap_or(7);
            add("arm", &mut down_to(level - 1, 5));
        }
        _ => {}
    }
    list
}

#[cfg(test)]
mod tests {
    use cairn_solver::Digest;

    use super::*;

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let descriptor = |(i, text): (usize, &&str)| Descriptor {
            platform: match *text {
                "" => None,
                "unknown/unknown" => Some(Platform::new("unknown", "unknown", "")),
                text => {
                    let mut parts = text.split('/');
                    let mut part = || parts.next().unwrap_or_default().to_owned();
                    // As documents have them: not normalised.
                    Some(Platform {
                        os: part(),
                        architecture: part(),
                        variant: part(),
                        ..Platform::default()
                    })
                }
            },
            ..Descriptor::new("m", Digest::sha256(&[i as u8]), i as u64)
        };
        platforms.iter().enumerate().map(descriptor).collect()
    }

    #[test]
    fn the_best_match_wins() {
        for (offered, wanted, want) in [
            (&["linux/386", "linux/amd64"][..], "linux/amd64", Some(1)),
            (&["linux/386", "linux/arm64"], "linux/amd64", Some(0)),
            (&["linux/arm64/v8"], "linux/arm64", Some(0)),
            (&["linux/arm64"], "linux/arm64/v8", Some(0)),
            (
                &["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"],
                "linux/arm/v6",
                Some(1),
            ),
            (&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some(1)),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/arm/v7"], "linux/arm64", Some(0)),
            (
                &["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"],
                "linux/amd64/v4",
                Some(2),
            ),
            (&["linux/amd64/v2"], "linux/amd64", None),
            (&["unknown/unknown", "linux/amd64"], "linux/amd64", Some(1)),
            (&["unknown/unknown"], "linux/amd64", None),
            (&["", "linux/amd64"], "linux/amd64", Some(1)),
            (&["", "linux/arm64"], "linux/amd64", Some(0)),
            (&["windows/amd64"], "linux/amd64", None),
            (&["linux/amd64", "linux/amd64"], "linux/amd64", Some(0)),
            (&["linux/riscv64"], "linux/riscv64", Some(0)),
        ] {
            let manifests = index(offered);
            let found = select(&manifests, &wanted.parse().unwrap()).map(|found| found.size);
            assert_eq!(found, want, "{wanted} of {offered:?}");
        }
    }
}
