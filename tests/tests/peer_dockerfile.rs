//! Dockerfiles give the same images, words and warnings here as with Docker Engine's BuildKit.
//!
//! Nothing is recorded: both build the same contexts with `docker buildx`, and what comes out is compared, down to the
//! entries of every layer. Where a release of the engine behaves otherwise than the language is described today, there is
//! no case. `CAIRN_PEER_CASES` (default 12) is how many random Dockerfiles are tried.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, ensure};
use cairn_tests::{Buildx, Daemon, Engine, Lab, Need, Program};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::Value;
use walkdir::WalkDir;

/// When all files of the context were written: whatever is younger, a build has made.
const WRITTEN: u64 = 1_500_000_000;

/// Dockerfiles that are built, with options after a `|`.
const BUILT: &[&str] = &[
    // What is copied where.
    "FROM scratch\nCOPY a b /d\nCOPY ? /q/\nCOPY *.nope /n/\nCOPY d/**/z /r/\nCOPY [^a] /s/\nCOPY * /t/",
    "FROM scratch\nWORKDIR /w\nCOPY . .\nCOPY a x/.\nCOPY a ../z/\nCOPY d/ y\nCOPY /../../a k\nCOPY [\"a\", \"sp ace/\"]",
    "FROM scratch\nCOPY d /x\nCOPY a /x\nCOPY d a /y/\nCOPY a d /y/\nCOPY d/y /x",
    "FROM scratch\nCOPY links /l\nCOPY links/file links/dir /m/\nCOPY links/dir/x /n/\nCOPY links/* /o/",
    "FROM scratch AS s\nCOPY links /\nFROM s\nCOPY a /dir/new\nCOPY b /file\nCOPY d /dir/sub",
    "FROM scratch\nCOPY modes /m\nCOPY modes/sticky /n\nCOPY modes/suid /o",
    // Owners and modes.
    "FROM scratch\nCOPY --chown=root a /a\nCOPY --chown=root:7 a /b\nCOPY --chown=5: a /c\nCOPY --chown=:6 d /d\nCOPY --chown=1:2 d /n/m/",
    "FROM scratch\nUSER root\nWORKDIR /x/y\nUSER root:root\nWORKDIR z\nUSER 3:4\nWORKDIR w\nUSER 5:\nWORKDIR q\nCOPY a .",
    "FROM debian AS s\nCOPY --chown=www-data a /a\nCOPY --chown=www-data: a /b\nCOPY --chown=nouser:5 d /c\nCOPY --chown=daemon:www-data d /e/f/\n\
     FROM scratch\nCOPY --from=s /a /b /c /e /o/\nCOPY --from=s --chown=9 /e /p",
    "FROM scratch\nCOPY --chmod=u=rwX,go=rX modes /a\nCOPY --chmod=a-w,g+s a /b\nCOPY --chmod=-w+x a /c\nCOPY --chmod=700 links /d\nCOPY --chmod=u+s,o+t d /e",
    // Links and filters.
    "FROM scratch\nCOPY --link a /n/x\nCOPY --link --chown=3 b /n/y\nCOPY --link d /n\nWORKDIR /n\nCOPY --link a b c/\nADD --link t.tgz u/",
    "FROM debian\nCOPY --link a /tmp/x\nCOPY --link a /bin/zz\nCOPY --link d /var/lib\nCOPY --link=false a /etc/zz",
    "FROM scratch\nCOPY --exclude=*.txt . /p/\nCOPY --exclude=**/z . /q/\nCOPY --exclude=/d . /r/\nCOPY --exclude=e.txt e.txt /s/\nADD --exclude=d . /t/",
    // Archives.
    "FROM scratch\nADD t.tgz /x\nADD --chown=1:2 --chmod=777 t.tgz /y/\nADD t* a /z/\nADD --unpack=false t.tgz /v/\nCOPY t.tgz /w\nCOPY d /d\nADD t.tgz /d",
    // Heredocs.
    "FROM scratch\nENV v=V q=\"x y\"\nCOPY <<EOF <<\"E2\" <<-E3 a /x/\n$v ${q} \\$v \\n \"$v\" '$v' ${v:+d}\\\nz\nEOF\n$v \\\nE2\n\t\ttab $v\n\tE3\nADD --chmod=600 --chown=5 <<F /y\n\nF",
    "FROM alpine\nRUN <<E\necho a > /a\ntouch -d @1 /a\nE\nRUN <<\"E\" cat > /b; touch -d @1 /b\n$HOME\nE\nRUN <<E\n#!/bin/sh\necho $0 > /c; touch -d @1 /c\nE",
    // Steps.
    "FROM alpine\nRUN mkdir -p /x/y && echo 1 > /x/y/z && touch -d @1 /x/y/z /x/y /x\nRUN rm /x/y/z\nRUN ln -s n /x/s && mkfifo /x/p && chmod 700 /x && touch -d @1 /x",
    "FROM alpine\nARG a=1 b c=3\nENV c=4\nRUN [\"/bin/sh\", \"-c\", \"echo $a\"]\nRUN -- echo ${a} ${u:-d} \\$a \\\n  # gone\n  cont\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN  echo  a\\ b|--build-arg|b=x y",
    "FROM alpine\nRUN --mount=type=tmpfs,target=/m/n --mount=type=cache,target=/c --mount=target=/k,source=a [ \"$(cat /k)\" = A ]\nRUN --mount=from=debian,target=/d ls /d/etc/debian_version",
    // Words.
    "FROM scratch\nENV v=foobarbaz e= p=/a/b.tar.gz\nLABEL a=\"${v#f*b}\" b=${v##f*b} c=${v%b*} d=${v%%b*} e=${v/ba/fo} f=${v//ba/fo} g=${p##*/} h=${p//\\//_} i=$$b j=\\$v k='$v' l=\"'$v'\" m=\"a\\nb\" n=a\\nb",
    "FROM scratch\nENV e= v=1\nLABEL a=${nowhere:-d} b=${e:-d} c=${e-d} d=${v:+d} e=${e:+d} f=${e+d} g=${nowhere+d} h=${e?m} i=${nowhere:-${nothing:-z}} j=\"${nowhere:-a b}\" k=${nowhere:-a\\}b}",
    "# escape=`\nFROM scratch\nENV a=c:\\x\\ b=`\nd c=`$a d=\"`$a\" e='`$a' f=x`y",
    "FROM scratch\nENV a=\"b c\" d=e\\ f g='h i' j=k\"l\"m n=\nENV legacy one  two \"q\"\nENV a=new z=$a ${a}k=v\nLABEL \"a b\"=c 'e f'=g x=1\nLABEL x y z|--label|x=w|--label|q=",
    "ARG global=G\nARG derived=$global-2\nARG key\nFROM scratch AS a\nARG first=1 second\nARG global\nENV A=$global,$derived,$first,$second,$key\nFROM a\nENV B=$global,$derived,$first,$second,$key\nARG derived key\nENV C=$derived,$key|--build-arg|key=K|--build-arg|global=9",
    "FROM --platform=$BUILDPLATFORM scratch AS x\nARG TARGETPLATFORM TARGETVARIANT TARGETSTAGE TARGETARCH=foo\nENV r=$TARGETPLATFORM,$TARGETVARIANT,$TARGETSTAGE,$TARGETARCH|--platform|linux/arm/v7|--target|X",
    // Configs.
    "FROM debian\nMAINTAINER a b <c@d>\nUSER 5:6\nWORKDIR /w\nWORKDIR x//y/.\nWORKDIR ../z\nVOLUME /c /d\nVOLUME [\"/a b\"]\nEXPOSE 80 90-91/udp 53/UDP $Q\nSTOPSIGNAL sigrtmin+3\nSHELL [\"/bin/x\",\"-y\"]\nCMD a b\nENTRYPOINT [\"e\"]\nONBUILD RUN x\nONBUILD   ENV  a=b \\\n c=d",
    "FROM debian\nENTRYPOINT [\"x\"]",
    "FROM scratch AS a\nCMD [\"y\"]\nFROM a\nENTRYPOINT x\nCMD ['a']\nENTRYPOINT z",
    "FROM scratch AS a\nONBUILD COPY a /ob\nONBUILD ENV X=1\nFROM a AS b\nCOPY b /own$X\nFROM b\nONBUILD COPY --from=b /ob /ob2\nFROM scratch\nCOPY --from=2 / /z",
    "FROM scratch\nWORKDIR /x/../y/\nWORKDIR $NOPE\nWORKDIR \"/q u\"\nWORKDIR rel\nWORKDIR /",
    "FROM scratch\nWORKDIR c:\\foo\nWORKDIR bar\nCOPY a .|--platform|windows/amd64",
    // Stages and platforms.
    "FROM scratch AS Foo\nCOPY a /\nFROM foo\nCOPY b /\nFROM nonexistent AS unused\nRUN x\nFROM scratch AS foo\nCOPY --from=1 /b /w\nCOPY --from=alpine /etc/passwd /p",
    "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\nLABEL p=$TARGETARCH|--platform|linux/amd64,linux/arm64,linux/arm/v6",
    "FROM alpine\nWORKDIR /w\nCOPY a x\nRUN echo 1 > f\nENV a=b|--build-arg|SOURCE_DATE_EPOCH=1000000000",
    "FROM base\nCOPY --from=other x /\nCOPY a /|--build-context|base=docker-image://alpine|--build-context|other=CONTEXT/d",
];

/// Dockerfiles that are refused, or whose build fails.
const REFUSED: &[&str] = &[
    "",
    "ARG X=1",
    "RUN echo\nFROM scratch",
    "FROM scratch\nFOO bar",
    "FROM scratch\ncoppy a b",
    "FROM scratch\nCopyy a b",
    "FROM scratch\nENV a=b \\\\",
    "#escape=x\nFROM scratch",
    "FROM scratch\nCOPY <<E /x\nhi",
    "FROM scratch\nCOPY a <<E\nhi\nE",
    "FROM scratch\nENV a=${q:?no}",
    "FROM scratch\nLABEL a=\"abc",
    "FROM scratch\nENV b=${v^^}",
    "FROM Bad_Name!",
    "FROM alpin",
    "FROM scratch AS 1a",
    "FROM --platform=$TARGETPLATFRM scratch",
    "FROM scratch\nCOPY --from=0 /a /b",
    "FROM scratch AS a\nCOPY --from=b /a /b\nFROM scratch AS b\nCOPY --from=a /b /a",
    "FROM scratch AS a\nONBUILD FOO bar\nFROM a",
    "FROM scratch\nCOPY nope /q/",
    "FROM scratch\nCOPY http://x/y /x",
    "FROM scratch\nCOPY --link=foo a /x",
    "FROM scratch\nCOPY --chmod=888 a /x",
    "FROM scratch\nCOPY --chmod=u+z a /x",
    "FROM scratch\nCOPY a /x\nCOPY a /x/y",
    "FROM scratch\nADD --checksum=foo a /x",
    "FROM debian\nRUN exit 3",
    "FROM debian\nRUN [\"nonexistent\"]",
    "FROM debian\nRUN --network= true",
    "FROM debian\nRUN --moun=type=cache true",
    "FROM debian\nRUN --mount=type=cach,target=/m true",
    "FROM debian\nRUN --mount=sorce=bar,target=/m true",
    "FROM debian\nRUN --mount=type=secret,id=nope,required true",
    "FROM debian\nRUN --mount=type=cache,target=/c,mode=999 true",
    "FROM debian\nUSER nobodyx\nRUN id",
    "FROM scratch\nEXPOSE 80/foo",
    "FROM scratch\nEXPOSE 80:81-82",
    "FROM scratch\nSTOPSIGNAL FOO",
    "FROM scratch\nHEALTHCHECK --interval=1us CMD x",
    "FROM scratch\nHEALTHCHECK --retries=99999999999999999999 CMD x",
    "FROM scratch\nSHELL bash -c",
    "FROM scratch|--target|nope",
    "FROM scratch|--platform|foo/bar/baz/qux",
];

/// Questions, each after a `|` at the end.
const ASKED: &[&str] = &[
    "FROM scratch\nENV PATH=$PATHH\nENV a=$b c=$b$b d=${b:-x}\nWORKDIR $nothing\nLABEL $nothing=$nothing|--check",
    "FROM scratch\nENTRYPOINT x\nCMD y\nENTRYPOINT z\nCMD [\"w\"]|--check",
    "from scratch as Foo\nENV a b\nMAINTAINER x\nEXPOSE 80/TCP\nWORKDIR r\nARG my_token=1|--check",
    "# x the desc\nFROM scratch AS X\n# y more\n\nFROM x as y|--call|targets",
    "# foo described here\nARG foo=1\nFROM scratch\nARG foo\nRUN --mount=type=secret,id=s,required true|--call|outline,format=json",
];

struct Bench {
    ours: Buildx,
    theirs: Buildx,
    // Stopped before the lab is cleared.
    _daemon: Daemon,
    _engine: Engine,
    context: PathBuf,
    lab: Lab,
}

/// What came of a build.
#[derive(Debug, PartialEq)]
struct Outcome {
    code: Option<i32>,
    said: String,
    error: String,
    /// Names of steps, in order of names.
    steps: Vec<String>,
    warnings: Vec<String>,
    images: Vec<Image>,
}

/// An image, without what differs from one build to the next.
#[derive(Debug, PartialEq)]
struct Image {
    config: Value,
    layers: Vec<Vec<String>>,
}

fn bench() -> anyhow::Result<Option<Bench>> {
    let Some(lab) = Lab::open(&[Need::Containers, Need::Bases, Need::Sid])? else {
        return Ok(None);
    };
    let (daemon, engine) = (Daemon::start(&lab)?, Engine::start_with_image_store(&lab)?);
    Ok(Some(Bench {
        ours: Buildx::remote(&lab, &daemon)?,
        theirs: Buildx::engine(&lab, &engine)?,
        context: context(&lab)?,
        _daemon: daemon,
        _engine: engine,
        lab,
    }))
}

/// A context with files of every kind; its Dockerfile changes with every case.
fn context(lab: &Lab) -> anyhow::Result<PathBuf> {
    let files = [
        ("a", "A"),
        ("b", "B"),
        ("d/x", "X"),
        ("d/y/z", "Z"),
        ("e.txt", "E"),
        (".hid", "H"),
        ("modes/suid", "s"),
        ("modes/private/f", "p"),
        ("modes/sticky/f", "t"),
        ("packed/f", "1"),
        ("packed/y/g", "2"),
    ];
    let dir = lab.files("context", &files)?;
    for (path, mode) in [
        ("modes/suid", 0o4755),
        ("modes/private", 0o700),
        ("modes/sticky", 0o1777),
    ] {
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode))?;
    }
    fs::create_dir(dir.join("links"))?;
    for (target, link) in [("../a", "file"), ("../d", "dir"), ("file", "chain")] {
        symlink(target, dir.join("links").join(link))?;
    }
    let packed = Program::new("tar")
        .dir(&dir)
        .args(["--owner=1000", "--group=2000", "--mtime=@1400000000"]);
    packed.args(["-czf", "t.tgz", "-C", "packed", "."]).output()?;
    fs::remove_dir_all(dir.join("packed"))?;
    for entry in WalkDir::new(&dir).contents_first(true) {
        let entry = entry?;
        if entry.file_type().is_symlink() {
            let time = format!("@{WRITTEN}");
            Program::new("touch")
                .args(["-h", "-d", &time])
                .args([entry.path()])
                .output()?;
        } else {
            set_written(entry.path())?;
        }
    }
    Ok(dir)
}

fn set_written(path: &Path) -> anyhow::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(WRITTEN);
    fs::File::open(path)?.set_times(fs::FileTimes::new().set_modified(time))?;
    Ok(())
}

impl Bench {
    /// Builds `case` on both sides at once.
    fn both(&self, case: &str) -> anyhow::Result<(Outcome, Outcome)> {
        let mut parts = case.split('|');
        let file = self.context.join("Dockerfile");
        fs::write(&file, parts.next().unwrap_or_default())?;
        set_written(&file)?;
        let context = self.context.display().to_string();
        let options: Vec<String> = parts.map(|part| part.replace("CONTEXT", &context)).collect();
        let built = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| self.build(&self.theirs, &options, "theirs.tar"));
            let ours = self.build(&self.ours, &options, "ours.tar");
            let theirs = theirs.join().map_err(|_| anyhow!("the engine's build panicked"))?;
            anyhow::Ok((ours?, theirs?))
        });
        built.with_context(|| format!("{case:?}"))
    }

    fn compare(&self, cases: &[&str], fits: impl Fn(&Outcome) -> bool) -> anyhow::Result<()> {
        let mut differences = String::new();
        for case in cases {
            let (ours, theirs) = self.both(case)?;
            ensure!(
                fits(&theirs),
                "the case is not what it should be: {case:?}: {theirs:#?}"
            );
            if let Some(difference) = difference(&ours, &theirs) {
                differences.push_str(&format!("\n{case}\n{difference}\n"));
            }
        }
        ensure!(differences.is_empty(), "{differences}");
        Ok(())
    }

    fn build(&self, buildx: &Buildx, options: &[String], tar: &str) -> anyhow::Result<Outcome> {
        let tar = self.lab.path(tar);
        let is_question = options
            .iter()
            .any(|option| matches!(option.as_str(), "--check" | "--call"));
        let mut program = buildx.build()?.args(["--progress=rawjson"]).args(options);
        if !is_question {
            let output = format!("type=oci,compression=uncompressed,dest={}", tar.display());
            program = program.args(["--output", &output]);
        }
        let finished = program.args([&self.context]).run()?;
        let mut outcome = Outcome {
            code: finished.status.code(),
            said: without_definitions(&finished.stdout),
            error: String::new(),
            steps: Vec::new(),
            warnings: Vec::new(),
            images: Vec::new(),
        };
        for line in finished.stderr.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(status) if status.is_object() => outcome.take(&status)?,
                _ => outcome.error.push_str(&format!("{line}\n")),
            }
        }
        outcome.steps.sort();
        outcome.steps.dedup();
        // Two variables of one word come in any order.
        outcome.warnings.sort();
        // Which half of the client is the first to hear of a failure is chance.
        let error = outcome.error.replace("failed to run Build function", "failed to solve");
        outcome.error = without_references(&error);
        if finished.status.success() && !is_question {
            outcome.images = images(&tar)?;
            fs::remove_file(&tar)?;
        }
        Ok(outcome)
    }
}

impl Outcome {
    fn take(&mut self, status: &Value) -> anyhow::Result<()> {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        for vertex in status["vertexes"].as_array().into_iter().flatten() {
            let name = vertex["name"].as_str().unwrap_or_default();
            // When the ignore file is read, and under how many names a context is, is up to whoever builds.
            if !name.contains("load .dockerignore") && !name.contains("load metadata for") {
                self.steps.push(name.to_owned());
            }
        }
        for warning in status["warnings"].as_array().into_iter().flatten() {
            let short = warning["short"].as_str().unwrap_or_default();
            self.warnings.push(String::from_utf8(BASE64_STANDARD.decode(short)?)?);
        }
        Ok(())
    }
}

/// Answers in JSON name the session, which is another one each time, in the definition that read the Dockerfile.
fn without_definitions(said: &str) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(said) else {
        return said.to_owned();
    };
    for source in answer["sources"].as_array_mut().into_iter().flatten() {
        if let Some(source) = source.as_object_mut() {
            source.remove("definition");
        }
    }
    answer.to_string()
}

/// Names of results are nobody's business.
fn without_references(error: &str) -> String {
    const BEFORE: &str = "calculate checksum of ref ";
    let mut text = String::new();
    let mut rest = error;
    while let Some((before, behind)) = rest.split_once(BEFORE) {
        text.push_str(before);
        text.push_str(BEFORE);
        rest = behind.find(": \"").map_or(behind, |at| &behind[at..]);
    }
    text + rest
}

/// The images in an OCI archive, in the order of their index.
fn images(tar: &Path) -> anyhow::Result<Vec<Image>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(tar)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content);
    }
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        let path = format!("blobs/{}", digest.replace(':', "/"));
        files.get(&path).with_context(|| format!("no blob {digest}"))
    };
    let index: Value = serde_json::from_slice(files.get("index.json").context("no index")?)?;
    let mut pending: Vec<Value> = index["manifests"].as_array().cloned().unwrap_or_default();
    pending.reverse();
    let mut images = Vec::new();
    while let Some(descriptor) = pending.pop() {
        let manifest: Value = serde_json::from_slice(blob(&descriptor)?)?;
        if let Some(inner) = manifest["manifests"].as_array() {
            pending.extend(inner.iter().rev().cloned());
            continue;
        }
        let mut config: Value = serde_json::from_slice(blob(&manifest["config"])?)?;
        settle(&mut config);
        let mut layers = Vec::new();
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            // Those of base images stay compressed, and are the same anyway.
            let is_new = layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar";
            layers.push(if is_new { entries(blob(layer)?)? } else { Vec::new() });
        }
        images.push(Image { config, layers });
    }
    Ok(images)
}

/// Takes out of a config what differs each time: times of today, and digests of layers with such times.
fn settle(config: &mut Value) {
    let today = config["created"].as_str().is_some_and(|time| time > "2024");
    if today || config["created"].is_null() {
        config["created"] = Value::Null;
    }
    for entry in config["history"].as_array_mut().into_iter().flatten() {
        if entry["created"].as_str().is_some_and(|time| time > "2024") {
            entry["created"] = Value::Null;
        }
    }
    let layers = config["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
    config["rootfs"]["diff_ids"] = layers.into();
    if config["history"].as_array().is_none_or(Vec::is_empty) {
        config["history"] = Value::Null;
    }
}

fn entries(layer: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let link = entry.link_name()?.map(|link| link.display().to_string());
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let header = entry.header();
        let time = match header.mtime()? {
            // Base images are from 2023.
            time if time > 1_704_067_200 => "now".to_owned(),
            time => time.to_string(),
        };
        lines.push(format!(
            "{path} {:?} {:o} {}:{} {time} {link:?} {}",
            header.entry_type(),
            header.mode()?,
            header.uid()?,
            header.gid()?,
            String::from_utf8_lossy(&content)
        ));
    }
    lines.sort();
    Ok(lines)
}

/// What differs, in a form that people can read.
fn difference(ours: &Outcome, theirs: &Outcome) -> Option<String> {
    if ours == theirs {
        return None;
    }
    let text = |outcome: &Outcome| format!("{outcome:#?}");
    let (ours, theirs) = (text(ours), text(theirs));
    let only = |a: &str, b: &str| {
        let known: Vec<&str> = b.lines().collect();
        a.lines()
            .filter(|line| !known.contains(line))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let (our, their) = (only(&ours, &theirs), only(&theirs, &ours));
    let [our, their] = if our.is_empty() && their.is_empty() {
        [ours, theirs]
    } else {
        [our, their]
    };
    Some(format!("ours:\n{our}\ntheirs:\n{their}"))
}

#[test]
fn dockerfiles_give_the_same_images_errors_and_answers() -> anyhow::Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    bench.compare(BUILT, |theirs| theirs.code == Some(0) && !theirs.images.is_empty())?;
    bench.compare(REFUSED, |theirs| theirs.code != Some(0) && !theirs.error.is_empty())?;
    bench.compare(ASKED, |theirs| !theirs.said.is_empty())
}

/// Lines of random Dockerfiles; `@` is an earlier stage.
const LINES: &[&str] = &[
    "COPY a /x",
    "COPY a x/",
    "COPY d y",
    "COPY d /x",
    "COPY d/* z/",
    "COPY --link b /x/b",
    "COPY --link d /y",
    "COPY --chown=3:4 d q",
    "COPY --chmod=700 b z/b",
    "COPY links /x",
    "COPY --from=@ / /from",
    "COPY --from=@ /x /x",
    "COPY --from=@ --link / /",
    "COPY <<E z/\n$A\nE",
    "ADD t.tgz y/",
    "ADD t.tgz /x",
    "WORKDIR /x",
    "WORKDIR w",
    "WORKDIR $A",
    "USER 7:8",
    "USER root",
    "ENV A=1 B=$A",
    "ENV A=b$B",
    "ARG A=arg",
    "ARG B",
    "LABEL l=$A m=${B:-none}",
    "EXPOSE 80 90/udp",
    "VOLUME /x $A",
    "CMD [\"c\"]",
    "CMD c $A",
    "ENTRYPOINT [\"e\"]",
    "ENTRYPOINT e",
    "SHELL [\"/bin/sh\", \"-c\"]",
    "STOPSIGNAL 9",
    "ONBUILD ENV O=1",
    "ONBUILD COPY a /onbuild",
];

/// Stages: what each is based on, and its lines, all by number.
type Stages = Vec<(usize, Vec<(usize, usize)>)>;

fn dockerfile(stages: &Stages) -> String {
    let mut text = String::from("ARG B=global\n");
    for (index, (base, lines)) in stages.iter().enumerate() {
        let base = match base % (index + 2) {
            0 => "scratch".to_owned(),
            1 => "alpine".to_owned(),
            stage => format!("s{}", stage - 2),
        };
        text.push_str(&format!("FROM {base} AS s{index}\n"));
        for &(line, from) in lines {
            let line = LINES[line];
            match index {
                0 if line.contains('@') => {}
                0 => text.push_str(&format!("{line}\n")),
                _ => text.push_str(&format!("{}\n", line.replace('@', &format!("s{}", from % index)))),
            }
        }
    }
    text
}

#[test]
fn random_dockerfiles_give_the_same_images() -> anyhow::Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let cases = std::env::var("CAIRN_PEER_CASES").map_or(Ok(12), |text| text.parse())?;
    let seed = match std::env::var("CAIRN_PEER_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => 1_u8,
    };
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let line = (0..LINES.len(), any::<usize>());
    let stages = prop::collection::vec((any::<usize>(), prop::collection::vec(line, 0..9)), 1..4);
    let tried = TestRunner::new_with_rng(config, rng).run(&stages, |stages| {
        let dockerfile = dockerfile(&stages);
        let both = bench.both(&dockerfile);
        let (mut ours, mut theirs) = both.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        // An operation that several lines share has the name of the first here, and of the last there.
        ours.steps.clear();
        theirs.steps.clear();
        match difference(&ours, &theirs) {
            // Several steps can fail, and any of them may be the first.
            Some(_) if ours.code == theirs.code && ours.code != Some(0) => {}
            Some(difference) => prop_assert!(false, "{dockerfile}\n{difference}"),
            None => {}
        }
        Ok(())
    });
    tried.map_err(|error| anyhow!("{error}"))
}
