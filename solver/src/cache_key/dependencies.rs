//! How vertices depend on their inputs: on all that an input is, or on what they read of it.

use super::op_fields::owner_of;
use crate::llb::{
    ActionInput, ContentCache, CopyAction, ExecOp, FileActionKind, FileOp, Mount, MountKind, Op, UserSpec, Vertex,
};
use crate::worker::ContentSelector;

/// How a vertex depends on one of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// On all of it.
    Identity,
    /// On what these select.
    Content(Vec<ContentSelector>),
}

/// How a vertex depends on each of its inputs, in order.
pub fn dependencies(vertex: &Vertex) -> Vec<Dependency> {
    let mut dependencies = vec![Dependency::Content(Vec::new()); vertex.inputs.len()];
    match &vertex.op {
        Op::Exec(exec) => exec_selectors(exec, &mut dependencies),
        Op::File(file) => file_selectors(file, &mut dependencies),
        Op::Source(_) | Op::Merge { .. } | Op::Diff { .. } | Op::Passthrough { .. } | Op::Build(_) => {
            dependencies.fill(Dependency::Identity);
        }
    }
    for dependency in &mut dependencies {
        // An input that nothing reads still is what the client asked for.
        if matches!(dependency, Dependency::Content(selectors) if selectors.is_empty()) {
            *dependency = Dependency::Identity;
        }
    }
    dependencies
}

/// Whether of what a mount shows only the content counts: nothing that it holds becomes part of a result.
pub(super) fn counts_by_content(mount: &Mount) -> bool {
    let is_kept = mount.output.is_some() || mount.dest == "/";
    match mount.content_cache {
        ContentCache::On => !is_kept,
        ContentCache::Off => false,
        ContentCache::Default => !is_kept && matches!(mount.kind, MountKind::Bind | MountKind::Cache { .. }),
    }
}

fn exec_selectors(exec: &ExecOp, dependencies: &mut [Dependency]) {
    for mount in &exec.mounts {
        let Some(input) = mount.input else { continue };
        match &mut dependencies[input] {
            Dependency::Content(known) if counts_by_content(mount) => known.push(ContentSelector {
                path: mount.selector.clone(),
                follow_links: true,
                ..ContentSelector::default()
            }),
            other => *other = Dependency::Identity,
        }
    }
}

fn file_selectors(file: &FileOp, dependencies: &mut [Dependency]) {
    let mut whole = |input: Option<ActionInput>| {
        if let Some(ActionInput::Vertex(input)) = input {
            dependencies[input] = Dependency::Identity;
        }
    };
    for action in &file.actions {
        whole(action.input);
        for owner in owner_of(&action.kind)
            .into_iter()
            .flat_map(|owner| [&owner.user, &owner.group])
        {
            if let Some(UserSpec::Name { input, .. }) = owner {
                whole(*input);
            }
        }
    }
    for action in &file.actions {
        if let (FileActionKind::Copy(copy), Some(ActionInput::Vertex(input))) = (&action.kind, action.secondary)
            && let Dependency::Content(known) = &mut dependencies[input]
        {
            known.push(copy_selector(copy));
        }
    }
}

fn copy_selector(copy: &CopyAction) -> ContentSelector {
    ContentSelector {
        path: copy.src.clone(),
        wildcard: copy.allow_wildcard,
        allow_empty: copy.allow_empty_wildcard,
        follow_links: copy.follow_symlink,
        // It may lead to an archive.
        link_targets: copy.attempt_unpack && !copy.follow_symlink,
        include: copy.include.clone(),
        exclude: copy.exclude.clone(),
    }
}
