use super::*;

fn known() -> Vec<Device> {
    let device = |name: &str, annotations: &[(&str, &str)]| {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Device::new(name.to_owned(), annotations.collect(), &["auto.com/kind".to_owned()])
    };
    // Sorted: `2` is before `=`.
    vec![
        device("auto.com/kind=a", &[]),
        device("v.com/gpu2=0", &[(CLASS, "big"), (AUTO_ALLOW, "no")]),
        device("v.com/gpu=0", &[(CLASS, "big")]),
        device("v.com/gpu=1", &[(CLASS, "big")]),
        device("v.com/gpu=2", &[(AUTO_ALLOW, "true")]),
    ]
}

#[test]
fn a_name_means_itself_its_kind_or_its_class() {
    for (name, want) in [
        ("v.com/gpu=1", Ok(&["v.com/gpu=1"][..])),
        ("v.com/gpu", Ok(&["v.com/gpu=0"])),
        ("v.com/gpu=", Ok(&["v.com/gpu=0"])),
        ("v.com/gpu=*", Ok(&["v.com/gpu=0", "v.com/gpu=1", "v.com/gpu=2"])),
        ("v.com/gpu=big", Ok(&["v.com/gpu=0", "v.com/gpu=1"])),
        ("v.com/gpu=3", Err("required device \"v.com/gpu=3\" is not registered")),
        ("v.com/gp", Err("required device \"v.com/gp\" is not registered")),
        ("v.com/gp=*", Err("required device \"v.com/gp=*\" is not registered")),
        ("gpu", Err("invalid device \"gpu\"")),
        ("v.com/=x", Err("invalid device \"v.com/=x\"")),
        ("/x", Err("invalid device \"/x\"")),
        ("", Err("invalid device \"\"")),
        ("1.com/x", Err("invalid device \"1.com/x\": invalid vendor \"1.com\"")),
        ("v.com/x/y", Err("invalid device \"v.com/x/y\": invalid class \"x/y\"")),
        ("v.com/x-=1", Err("invalid device \"v.com/x-=1\": invalid class \"x-\"")),
    ] {
        let known = known();
        let found = find(name, false, &known).map(|found| found.iter().map(|d| d.name.as_str()).collect::<Vec<_>>());
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), want, "{name}");
    }
    assert_eq!(find("v.com/gpu=3", true, &known()), Ok(Vec::new()));
    assert!(find("gpu", true, &known()).is_err(), "no name, if optional");
}

fn grants(entitlements: &[&str]) -> DeviceGrants {
    let mut grants = DeviceGrants::default();
    for fields in entitlements {
        let fields: Vec<String> = fields.split(',').map(str::to_owned).collect();
        grants.grant(&fields).unwrap();
    }
    grants
}

fn settled(grants: &DeviceGrants, asked: &[&str]) -> Result<Vec<String>, String> {
    let asked: Vec<CdiDevice> = asked
        .iter()
        .map(|name| CdiDevice {
            name: name.trim_end_matches('?').to_owned(),
            optional: name.ends_with('?'),
        })
        .collect();
    let settled = grants.among(Some(&known())).settle(&asked, "RUN x");
    settled
        .map(|devices| devices.into_iter().map(|device| device.name).collect())
        .map_err(|error| error.to_string())
}

#[test]
fn a_step_gets_what_was_granted() {
    let none = "device v.com/gpu=0 is requested by the build but not allowed";
    let both = "devices v.com/gpu=0, v.com/gpu=1 are requested by the build but not allowed";
    for (granted, asked, want) in [
        (&[][..], &["auto.com/kind"][..], Ok(&["auto.com/kind=a"][..])),
        (&[], &["v.com/gpu=2", "v.com/none=x?"], Ok(&["v.com/gpu=2"])),
        (&[], &["v.com/gpu=0"], Err(none)),
        (&[], &["v.com/gpu=0?"], Err(none)),
        (&[], &["v.com/gpu=*"], Err(both)),
        (&["v.com/gpu=1"], &["v.com/gpu=*"], Err(none)),
        (
            &["v.com/gpu=big"],
            &["v.com/gpu=*", "v.com/gpu"],
            Ok(&["v.com/gpu=0", "v.com/gpu=1", "v.com/gpu=2"]),
        ),
        (&["v.com/gpu"], &["v.com/gpu=0"], Ok(&["v.com/gpu=0"])),
        (&["nonsense", "v.com/none"], &["v.com/gpu=0"], Err(none)),
        (&["v.com/gpu=1,alias=mine"], &["mine"], Ok(&["v.com/gpu=1"])),
        (
            &["v.com/gpu=9,alias=mine"],
            &["mine"],
            Err("required device \"v.com/gpu=9\" is not registered"),
        ),
        (&["v.com/gpu=0,alias=mine"], &["v.com/gpu=0"], Err(none)),
    ] {
        let found = settled(&grants(granted), asked);
        assert_eq!(
            found.as_deref().map_err(String::as_str),
            want.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                .as_deref()
                .map_err(|e| *e),
            "{granted:?} {asked:?}"
        );
    }
    let all = settled(&DeviceGrants::All, &["v.com/gpu=*", "v.com/gpu2"]);
    assert_eq!(all.unwrap().len(), 4);
}

#[test]
fn without_devices_only_optional_ones_can_be_asked_for() {
    let asked = |optional| {
        [CdiDevice {
            name: "v.com/gpu".to_owned(),
            optional,
        }]
    };
    assert_eq!(
        DeviceGrants::All.among(None).settle(&asked(true), "RUN x"),
        Ok(Vec::new())
    );
    assert_eq!(
        DeviceGrants::All
            .among(None)
            .settle(&asked(false), "RUN x")
            .unwrap_err()
            .to_string(),
        "CDI device \"v.com/gpu\" is required by step \"RUN x\", but CDI device support is disabled"
    );
}

#[test]
fn grants_that_make_no_sense_are_refused() {
    for (fields, want) in [
        (&["x", "y"][..], "invalid device config \"y\""),
        (&["x", "y=z"], "unknown device config key \"y\""),
        (&[], "invalid device config \"\""),
    ] {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        assert_eq!(DeviceGrants::default().grant(&fields).unwrap_err(), want);
    }
    let mut all = DeviceGrants::All;
    all.grant(&["v.com/gpu".to_owned()]).unwrap();
    assert_eq!(all, DeviceGrants::All);
}
