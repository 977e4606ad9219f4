//! What a client may ask for beyond what every build may do.

use std::collections::BTreeSet;

use cairn_solver::{DeviceGrants, Entitlement};

use crate::failure::Failure;

/// Most that one client asks for.
const MAX_ENTITLEMENTS: usize = 256;

/// What a build is granted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// What it may do.
    pub(crate) entitlements: BTreeSet<Entitlement>,
    /// Devices of the host that its steps may have.
    pub(crate) devices: DeviceGrants,
}

impl Granted {
    /// What a client asks for: names, and `device=NAME[,alias=ALIAS]` for one device. `allowed` is what clients may have.
    ///
    /// # Errors
    /// Which of it is not allowed, or makes no sense.
    pub(crate) fn of(asked: &[String], allowed: &[Entitlement]) -> Result<Self, Failure> {
        if asked.len() > MAX_ENTITLEMENTS {
            let count = asked.len();
            return Err(Failure::unknown(format!(
                "{count} entitlements: one build can ask for at most {MAX_ENTITLEMENTS}"
            )));
        }
        let mut granted = Self::default();
        for text in asked {
            let device = text.strip_prefix("device=");
            let name = if device.is_some() { "device" } else { text };
            let entitlement = Entitlement::from_name(name);
            let entitlement = entitlement.ok_or_else(|| Failure::unknown(format!("unknown entitlement {name}")))?;
            let entitlement = Some(entitlement).filter(|entitlement| allowed.contains(entitlement));
            let entitlement = entitlement.ok_or_else(|| {
                Failure::unknown(format!(
                    "granting entitlement {name} is not allowed by build daemon configuration"
                ))
            })?;
            granted.entitlements.insert(entitlement);
            match (entitlement, device) {
                (Entitlement::Device, None | Some("")) => granted.devices = DeviceGrants::All,
                (Entitlement::Device, Some(device)) => {
                    // Names of devices have neither quotes nor commas.
                    let fields: Vec<String> = device.split(',').map(str::to_owned).collect();
                    granted.devices.grant(&fields).map_err(Failure::unknown)?;
                }
                _ => {}
            }
        }
        Ok(granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(asked: &[&str], allowed: &[Entitlement]) -> Result<Granted, String> {
        let asked: Vec<String> = asked.iter().map(|text| (*text).to_owned()).collect();
        Granted::of(&asked, allowed).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn only_what_the_daemon_allows_is_granted() {
        let all = [Entitlement::NetworkHost, Entitlement::Device];
        let both = granted(&["network.host", "device"], &all).unwrap();
        assert_eq!(both.entitlements, BTreeSet::from(all));
        assert_eq!(both.devices, DeviceGrants::All);
        let mut one = DeviceGrants::default();
        one.grant(&["v.com/c=a".to_owned(), "alias=b".to_owned()]).unwrap();
        assert_eq!(granted(&["device=v.com/c=a,alias=b"], &all).unwrap().devices, one);
        assert_eq!(
            granted(&["device=v.com/c", "device="], &all).unwrap().devices,
            DeviceGrants::All
        );
        assert_eq!(granted(&[], &all).unwrap(), Granted::default());
        for (asked, allowed, want) in [
            (
                "device=v.com/c",
                &[][..],
                "granting entitlement device is not allowed by build daemon configuration",
            ),
            (
                "device",
                &[],
                "granting entitlement device is not allowed by build daemon configuration",
            ),
            ("devices", &all, "unknown entitlement devices"),
            ("device=v.com/c,x", &all, "invalid device config \"x\""),
            ("device=v.com/c,x=y", &all, "unknown device config key \"x\""),
        ] {
            assert_eq!(granted(&[asked], allowed).unwrap_err(), want);
        }
        assert!(
            granted(&["device"; 257], &all)
                .unwrap_err()
                .starts_with("257 entitlements")
        );
    }
}
