use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn spec(kind: &str, devices: &[(&str, &str)]) -> String {
    let devices = devices
        .iter()
        .map(|(name, value)| format!("{{name: {name}, containerEdits: {{env: [D={value}]}}}}"));
    let devices: Vec<String> = devices.collect();
    format!(
        "cdiVersion: 0.6.0\nkind: {kind}\ncontainerEdits: {{env: [ALL=1]}}\ndevices: [{}]",
        devices.join(", ")
    )
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn make_dir(path: &Path) {
    std::fs::create_dir(path).unwrap();
    set_mode(path, 0o755);
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    set_mode(path, 0o644);
}

fn names(cdi: &Cdi) -> Vec<String> {
    cdi.devices().iter().map(|device| device.name.clone()).collect()
}

fn env(cdi: &Cdi, names: &[&str]) -> Result<Vec<String>, String> {
    let asked = names.iter().map(|&name| CdiDevice {
        name: name.to_owned(),
        optional: false,
    });
    let edits = cdi.edits(&asked.collect::<Vec<_>>());
    edits.map(|edits| edits.env).map_err(|error| error.to_string())
}

#[test]
fn devices_come_and_go_with_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let (low, high) = (dir.path().join("low"), dir.path().join("high"));
    let cdi = Cdi::new(CdiConfig {
        dirs: vec![low.clone(), high.clone()],
        auto_allowed: vec!["v.com/c=b".to_owned()],
    });
    assert!(names(&cdi).is_empty(), "no directory is no device");

    make_dir(&low);
    write(&low.join("v.yaml"), &spec("v.com/c", &[("b", "1"), ("a", "1")]));
    std::fs::write(low.join("ignored.txt"), "x").unwrap();
    write(&low.join("broken.json"), "{");
    std::fs::create_dir(low.join("dir.json")).unwrap();
    assert_eq!(names(&cdi), ["v.com/c=a", "v.com/c=b"]);
    assert!(cdi.devices()[1].is_auto_allowed);
    assert_eq!(env(&cdi, &["v.com/c=a", "v.com/c=b"]).unwrap(), ["ALL=1", "D=1", "D=1"]);
    assert!(Arc::ptr_eq(&cdi.known(), &cdi.known()), "read again for nothing");

    // What a later directory says counts.
    make_dir(&high);
    write(&high.join("v.json"), &spec("v.com/c", &[("a", "2")]));
    assert_eq!(env(&cdi, &["v.com/c=a"]).unwrap(), ["ALL=1", "D=1"], "YAML is no JSON");
    std::fs::rename(high.join("v.json"), high.join("v.yml")).unwrap();
    assert_eq!(env(&cdi, &["v.com/c=a"]).unwrap(), ["ALL=1", "D=2"]);

    // Of two in one directory, none.
    write(&low.join("w.yaml"), &spec("v.com/c", &[("b", "3")]));
    assert_eq!(names(&cdi), ["v.com/c=a"]);
    assert_eq!(
        env(&cdi, &["v.com/c=b"]).unwrap_err(),
        "required device \"v.com/c=b\" is not registered"
    );
    std::fs::remove_dir_all(&low).unwrap();
    std::fs::remove_dir_all(&high).unwrap();
    assert!(names(&cdi).is_empty());
}

#[test]
fn what_is_too_large_or_no_file_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe.json"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    write(&at("large.yaml"), &" ".repeat(2 << 20));
    write(&at("good.yaml"), &spec("v.com/c", &[("a", "1")]));
    let error = |name| SpecFile::read(&at(name)).err().map(|error| error.to_string());
    assert_eq!(error("pipe.json").unwrap(), "it is no file");
    assert_eq!(error("large.yaml").unwrap(), "it has more than 1048576 bytes");
    assert_eq!(error("good.yaml"), None);
}

#[test]
fn a_file_that_others_can_write_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    write(&file, &spec("v.com/c", &[("a", "1")]));
    let reads = |file_mode: u32, dir_mode: u32| {
        set_mode(&file, file_mode);
        set_mode(dir.path(), dir_mode);
        SpecFile::read(&file).map(drop).map_err(|error| error.to_string())
    };
    let refused = Err("others than the administrator can write it, or its directory".to_owned());
    assert_eq!(reads(0o644, 0o755), Ok(()));
    assert_eq!(reads(0o664, 0o755), refused);
    assert_eq!(reads(0o646, 0o755), refused);
    assert_eq!(reads(0o644, 0o777), refused);
    if crate::sys::is_root_or_skip() {
        std::os::unix::fs::chown(&file, Some(1), None).unwrap();
        assert_eq!(reads(0o644, 0o755), refused);
    }
}

#[test]
fn nothing_comes_in_place_of_a_device_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let cdi = Cdi::new(CdiConfig {
        dirs: vec![dir.path().to_owned()],
        auto_allowed: Vec::new(),
    });
    let class = "annotations: {org.mobyproject.buildkit.device.class: gone}";
    let text = spec("v.com/c", &[("a", "1")]).replace("{name: a,", &format!("{{name: a, {class},"));
    write(&dir.path().join("v.yaml"), &text);
    assert_eq!(env(&cdi, &["v.com/c=a"]).unwrap(), ["ALL=1", "D=1"]);
    for name in ["v.com/c=gone", "v.com/c=*", "v.com/c"] {
        assert!(env(&cdi, &[name]).unwrap_err().contains("is not registered"), "{name}");
        let optional = CdiDevice {
            name: name.to_owned(),
            optional: true,
        };
        assert_eq!(cdi.edits(&[optional]).unwrap(), Edits::default());
    }
}
