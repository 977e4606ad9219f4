//! The examples: what is in the images, what is not, what they say about themselves, and that they run.
//!
//! The multi-stage example has tests of its own, in `main_job.rs`.

use std::path::PathBuf;

use anyhow::ensure;
use cairn_tests::{Cairn, Daemon, Image, Lab, Need};
use serde_json::{Value, json};

struct Example {
    context: PathBuf,
    cairn: Cairn,
    // Stopped before the lab it works in is cleared.
    _daemon: Daemon,
    lab: Lab,
}

impl Example {
    fn open(name: &str) -> anyhow::Result<Option<Self>> {
        let Some(lab) = Lab::open(&[Need::Containers, Need::Bases])? else {
            return Ok(None);
        };
        let daemon = Daemon::start(&lab)?;
        Ok(Some(Self {
            context: lab.example(name)?,
            cairn: Cairn::with(&lab, &daemon),
            _daemon: daemon,
            lab,
        }))
    }

    fn build(&self, dockerfile: &str, more: &[&str]) -> anyhow::Result<Image> {
        let tar = self.lab.path("image.tar");
        let output = format!("type=oci,dest={}", tar.display());
        let file = self.context.join(dockerfile).display().to_string();
        let context = self.context.display().to_string();
        let args = ["-f", &file, "-o", &output]
            .into_iter()
            .chain(more.iter().copied())
            .chain([context.as_str()]);
        self.cairn.build(args)?;
        Image::from_oci(&self.lab, &tar)
    }

    /// A base image by itself.
    fn base(&self, name: &str) -> anyhow::Result<Image> {
        Image::from_registry(&self.lab, &format!("{}/{name}", cairn_tests::lab::base_registry()?))
    }
}

fn expect_config(image: &Image, expected: &[(&str, Value)]) -> anyhow::Result<()> {
    for (key, value) in expected {
        let found = &image.config()["config"][key];
        ensure!(found == value, "{key} is {found}, not {value}");
    }
    Ok(())
}

#[test]
fn nest_in_one_stage_and_two_and_on_a_small_base() -> anyhow::Result<()> {
    let Some(example) = Example::open("nest")? else {
        return Ok(());
    };
    let single = example.build("Dockerfile", &[])?;
    // README.md is let in again, docs/GUIDE.md is not matched by a pattern for the top, and .nvmrc by none.
    single.expect_files(
        &[
            "/app/dist/main.js",
            "/app/src/main.ts",
            "/app/README.md",
            "/app/docs/GUIDE.md",
            "/app/d.txt",
            "/app/.nvmrc",
        ],
        &[
            "/app/NOTES.md",
            "/app/a.txt",
            "/app/b.txt",
            "/app/c.txt",
            "/app/.editorconfig",
            "/app/.env.sample",
            "/app/.gitignore",
        ],
    )?;
    expect_config(
        &single,
        &[
            ("WorkingDir", json!("/app")),
            ("ExposedPorts", json!({"3000/tcp": {}})),
            ("Cmd", json!(["node", "./dist/main.js"])),
        ],
    )?;
    let greeting = single.run_command(&["node", "dist/main.js", "--check"])?;
    ensure!(greeting.contains("cairn"), "{greeting}");

    let two = example.build("Dockerfile.two-stage", &[])?;
    two.expect_files(
        &["/app/main.js", "/app/package.json", "/app/node_modules/@nestjs/core"],
        &[
            "/app/src",
            "/app/dist",
            "/app/node_modules/typescript",
            "/app/tsconfig.json",
        ],
    )?;
    expect_config(
        &two,
        &[("WorkingDir", json!("/app")), ("Cmd", json!(["node", "/app/main.js"]))],
    )?;
    ensure!(two.run_command(&["node", "main.js", "--check"])? == greeting);
    ensure!(
        two.size()? < single.size()?,
        "two stages: {}, one: {}",
        two.size()?,
        single.size()?
    );

    let small = example.build("Dockerfile.alpine", &[])?;
    small.expect_files(&["/app/main.js", "/bin/busybox"], &["/app/src", "/usr/bin/apt-get"])?;
    ensure!(small.run_command(&["node", "main.js", "--check"])? == greeting);
    ensure!(
        small.size()? < two.size()?,
        "small: {}, two stages: {}",
        small.size()?,
        two.size()?
    );
    Ok(())
}

#[test]
fn a_front_end_is_built_by_node_and_served_by_nginx() -> anyhow::Result<()> {
    let Some(example) = Example::open("front-end")? else {
        return Ok(());
    };
    let image = example.build("Dockerfile", &["--target", "production-stage"])?;
    let pages = "/usr/share/nginx/html";
    image.expect_files(
        &[
            &format!("{pages}/index.html"),
            &format!("{pages}/robots.txt"),
            &format!("{pages}/assets"),
        ],
        &["/app", "/usr/bin/node", &format!("{pages}/package.json")],
    )?;
    expect_config(
        &image,
        &[
            ("ExposedPorts", json!({"80/tcp": {}})),
            ("Cmd", json!(["nginx", "-g", "daemon off;"])),
        ],
    )?;
    image.run_command(&["nginx", "-t"])?;
    let single = example.build("Dockerfile", &["--target", "build-stage"])?;
    ensure!(image.size()? < single.size()?);
    Ok(())
}

#[test]
fn a_go_program_alone_in_an_image_copied_by_number_and_by_name() -> anyhow::Result<()> {
    let Some(example) = Example::open("go-server")? else {
        return Ok(());
    };
    let numbered = example.build("Dockerfile", &[])?;
    let named = example.build("Dockerfile.named", &[])?;
    for image in [&numbered, &named] {
        image.expect_files(&["/greeter"], &["/go", "/bin", "/usr"])?;
        expect_config(
            image,
            &[
                ("Entrypoint", json!(["/greeter"])),
                ("ExposedPorts", json!({"8080/tcp": {}})),
            ],
        )?;
        image.run_command(&["/greeter", "-check"])?;
    }
    ensure!(
        numbered.manifest()["layers"] == named.manifest()["layers"],
        "the same step made two layers"
    );
    ensure!(named.size()? < example.base("library/golang:latest")?.size()?);
    Ok(())
}

#[test]
fn a_file_comes_straight_from_another_image() -> anyhow::Result<()> {
    let Some(example) = Example::open("etcd-copy")? else {
        return Ok(());
    };
    let image = example.build("Dockerfile", &[])?;
    image.expect_files(&["/usr/local/bin/etcd", "/usr/bin/apt-get"], &[])?;
    expect_config(
        &image,
        &[
            ("ExposedPorts", json!({"2379/tcp": {}})),
            ("Cmd", json!(["etcd", "--version"])),
        ],
    )?;
    let said = image.run()?;
    ensure!(said.contains("etcd Version"), "{said}");
    Ok(())
}

#[test]
fn php_packages_and_a_front_end_meet_in_a_third_stage() -> anyhow::Result<()> {
    let Some(example) = Example::open("laravel-style")? else {
        return Ok(());
    };
    let image = example.build("Dockerfile", &[])?;
    let root = "/var/www/html";
    let present = [
        "artisan",
        "vendor/autoload.php",
        "public/js/app.js",
        "public/css/app.css",
        "public/mix-manifest.json",
    ];
    let present = present.map(|path| format!("{root}/{path}"));
    let present: Vec<&str> = present.iter().map(String::as_str).collect();
    image.expect_files(
        &present,
        &["/usr/bin/node", "/var/www/html/node_modules", "/usr/bin/composer"],
    )?;
    expect_config(
        &image,
        &[
            ("WorkingDir", json!(root)),
            ("ExposedPorts", json!({"8000/tcp": {}})),
            ("Cmd", json!(["php", "-S", "0.0.0.0:8000", "-t", "public"])),
        ],
    )?;
    let page = image.run_command(&["php", "artisan"])?;
    ensure!(page.contains("cairn"), "{page}");
    ensure!(
        image.size()? < example.base("library/composer:latest")?.size()? + example.base("library/node:18")?.size()?
    );
    Ok(())
}
