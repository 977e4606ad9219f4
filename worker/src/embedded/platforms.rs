//! What this machine can run: its own platform, older ones of the same kind, and those that the kernel hands to an
//! emulator.

use std::fs;
use std::path::Path;

use cairn_solver::Platform;

/// Where the kernel tells which programs it has emulators for.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";
/// There if the kernel runs 32-bit programs for x86.
const VSYSCALL32: &str = "/proc/sys/abi/vsyscall32";
/// Longest description of an emulator that is read.
const MAX_ENTRY: usize = 4096;

/// All platforms, the machine's own first.
pub(super) fn supported() -> Vec<Platform> {
    let mut platforms = vec![Platform::host()];
    platforms.extend(native_variants());
    for platform in emulated(Path::new(BINFMT)) {
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    platforms
}

#[cfg(target_arch = "x86_64")]
fn native_variants() -> Vec<Platform> {
    let v2 = is_x86_feature_detected!("sse3")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("cmpxchg16b");
    let v3 = v2
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe");
    let v4 = v3
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let variants = [("v2", v2), ("v3", v3), ("v4", v4)].into_iter().filter(|(_, has)| *has);
    let mut platforms: Vec<Platform> = variants
        .map(|(variant, _)| Platform::new("linux", "amd64", variant))
        .collect();
    if Path::new(VSYSCALL32).exists() {
        platforms.push(Platform::new("linux", "386", ""));
    }
    platforms
}

#[cfg(not(target_arch = "x86_64"))]
fn native_variants() -> Vec<Platform> {
    Vec::new()
}

/// Platforms with an emulator that is found from inside containers, by name.
fn emulated(dir: &Path) -> Vec<Platform> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let mut platforms: Vec<Platform> = texts
        .filter(|text| text.len() <= MAX_ENTRY)
        .flat_map(|text| of(&text))
        .collect();
    platforms.sort_by_key(ToString::to_string);
    platforms.dedup();
    platforms
}

/// The platforms of an emulator, from its description.
fn of(text: &str) -> Vec<Platform> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let is_enabled = text.lines().next().is_some_and(|line| line.trim() == "enabled");
    // Opened when it was registered, so that it need not be in the container.
    let is_fixed = value("flags:").is_some_and(|flags| flags.contains('F'));
    let magic = value("magic").and_then(|digits| hex::decode(digits).ok());
    match magic {
        Some(magic) if is_enabled && is_fixed => of_magic(&magic),
        _ => Vec::new(),
    }
}

/// The platforms of programs that begin with these bytes: a header of an ELF file.
fn of_magic(magic: &[u8]) -> Vec<Platform> {
    let [0x7f, b'E', b'L', b'F', class, order, ..] = magic else {
        return Vec::new();
    };
    let Some(&[low, high]) = magic.get(18..20) else {
        return Vec::new();
    };
    let is_64 = *class == 2;
    let is_big = *order == 2;
    let machine = if is_big {
        u16::from_be_bytes([low, high])
    } else {
        u16::from_le_bytes([low, high])
    };
    // Numbers of the ELF specification ("e_machine").
    let names: &[&str] = match (machine, is_64, is_big) {
        (0x03, false, false) => &["386"],
        (0x08, true, true) => &["mips64"],
        (0x08, true, false) => &["mips64le"],
        (0x15, true, true) => &["ppc64"],
        (0x15, true, false) => &["ppc64le"],
        (0x16, true, true) => &["s390x"],
        (0x28, false, false) => &["arm/v7", "arm/v6"],
        (0x3e, true, false) => &["amd64"],
        (0xb7, true, false) => &["arm64"],
        (0xf3, true, false) => &["riscv64"],
        (0x102, true, false) => &["loong64"],
        _ => &[],
    };
    let platforms = names.iter().map(|name| {
        let (architecture, variant) = name.split_once('/').unwrap_or((name, ""));
        Platform::new("linux", architecture, variant)
    });
    platforms.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "7f454c460201010000000000000000000200b700";
    const S390X: &str = "7f454c4602020100000000000000000000020016";

    fn entry(state: &str, flags: &str, magic: &str) -> String {
        format!("{state}\ninterpreter /usr/bin/qemu\nflags: {flags}\noffset 0\nmagic {magic}\nmask ff\n")
    }

    #[test]
    fn emulators_are_understood() {
        let arm = "7f454c4601010100000000000000000002002800";
        for (text, want) in [
            (entry("enabled", "OCF", ARM64), vec!["linux/arm64"]),
            (entry("enabled", "F", S390X), vec!["linux/s390x"]),
            (entry("enabled", "F", arm), vec!["linux/arm/v7", "linux/arm/v6"]),
            (entry("disabled", "F", ARM64), vec![]),
            (entry("enabled", "OC", ARM64), vec![]),
            (entry("enabled", "F", "7f454c46"), vec![]),
            (entry("enabled", "F", "xyz"), vec![]),
            ("enabled\ninterpreter /x\nflags: F\nextension .py\n".to_owned(), vec![]),
            (String::new(), vec![]),
        ] {
            let names: Vec<String> = of(&text).iter().map(ToString::to_string).collect();
            assert_eq!(names, want, "{text}");
        }
    }

    #[test]
    fn emulators_are_listed_once_and_the_machine_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for (name, magic) in [("qemu-s390x", S390X), ("qemu-aarch64", ARM64), ("other", ARM64)] {
            fs::write(dir.path().join(name), entry("enabled", "F", magic)).unwrap();
        }
        fs::write(dir.path().join("status"), "enabled\n").unwrap();
        let names: Vec<String> = emulated(dir.path()).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["linux/arm64", "linux/s390x"]);
        assert!(emulated(&dir.path().join("missing")).is_empty());
        assert_eq!(supported()[0], Platform::host());
    }
}
