//! Runs the actions of an op, each on the layer it belongs to.
//!
//! Actions that follow one another on one state share one layer. A state is finished as a layer of its own only where
//! somebody else looks at it: it is an output, a source of a copy, or the start of two actions.

use std::sync::Arc;

use cairn_solver::llb::{ActionInput, Chown, FileAction, FileActionKind, FileOp, UserSpec};

use super::actions::{self, Attributes, Copy};
use super::dest::{Dest, StoreLinks};
use super::error::FileOpError;
use super::mounts::{Base, FileOpMounts, LayerMount, Unpack};
use super::owner::{self, Owner};
use super::place;
use crate::sys::{Root, Time};
use crate::tree::View;

/// Runs an op and returns its outputs in order. Blocks; stops between files once `is_cancelled`.
pub fn apply<M: FileOpMounts>(
    op: &FileOp,
    mounts: &mut M,
    unpack: &dyn Unpack,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<Vec<M::Result>, FileOpError> {
    let mut chain = Chain {
        mounts,
        unpack,
        is_cancelled,
        uses: op.actions.iter().fold(vec![0; op.actions.len()], count_uses),
        states: Vec::with_capacity(op.actions.len()),
    };
    for (index, action) in op.actions.iter().enumerate() {
        let state = chain.run(index, action)?;
        chain.states.push(state);
    }
    let mut outputs: Vec<(usize, M::Result)> = Vec::new();
    for (index, action) in op.actions.iter().enumerate() {
        if let Some(output) = action.output {
            outputs.push((output, chain.finished(index)?));
        }
    }
    outputs.sort_by_key(|(output, _)| *output);
    Ok(outputs.into_iter().map(|(_, result)| result).collect())
}

/// Adds what `action` does with earlier ones. A state may be built upon only by its one user.
fn count_uses(mut uses: Vec<usize>, action: &FileAction) -> Vec<usize> {
    let owner = match &action.kind {
        FileActionKind::Copy(copy) => &copy.owner,
        FileActionKind::Mkfile { owner, .. }
        | FileActionKind::Mkdir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => owner,
        FileActionKind::Rm { .. } => &None,
    };
    let parts = owner.iter().flat_map(|owner| [&owner.user, &owner.group]).flatten();
    let accounts = parts.filter_map(|part| match part {
        UserSpec::Name { input, .. } => Some(*input),
        UserSpec::Id(_) => None,
    });
    for input in [action.input, action.secondary].into_iter().chain(accounts).flatten() {
        if let ActionInput::Action(index) = input
            && let Some(uses) = uses.get_mut(index)
        {
            *uses += 1;
        }
    }
    uses
}

struct Chain<'a, M: FileOpMounts> {
    mounts: &'a mut M,
    unpack: &'a dyn Unpack,
    is_cancelled: &'a dyn Fn() -> bool,
    /// By action: how many references there are to its result, outputs not counted.
    uses: Vec<usize>,
    states: Vec<State<M>>,
}

enum State<M: FileOpMounts> {
    Open(OpenLayer<M::Layer>, IsOutput),
    Finished(M::Result),
    /// Built upon by its only user.
    Gone,
}

type IsOutput = bool;

struct OpenLayer<L> {
    layer: L,
    /// Set from the first change on that needed it.
    mounted: Option<Root>,
    links: StoreLinks,
}

impl<M: FileOpMounts> Chain<'_, M> {
    fn run(&mut self, index: usize, action: &FileAction) -> Result<State<M>, FileOpError> {
        if (self.is_cancelled)() {
            return Err(FileOpError::Cancelled);
        }
        let owner = self.owner(action)?;
        let source = match &action.kind {
            FileActionKind::Copy(_) => Some(self.source(action.secondary)?),
            _ => None,
        };
        let mut layer = self.begin(action.input)?;
        match self.change(&mut layer, &action.kind, source.as_deref(), owner) {
            Ok(()) => Ok(State::Open(layer, action.output.is_some())),
            Err(FileOpError::Cancelled) => Err(FileOpError::Cancelled),
            Err(error) => {
                drop(source);
                let left = self.commit(layer);
                let left = left.inspect_err(|error| tracing::warn!(%error, "what a failed action left is not kept"));
                self.mounts.failed(index, left.ok());
                Err(error)
            }
        }
    }

    fn change(
        &self,
        layer: &mut OpenLayer<M::Layer>,
        kind: &FileActionKind,
        source: Option<&dyn View>,
        owner: Option<Owner>,
    ) -> Result<(), FileOpError> {
        let attributes = |timestamp: &Option<i64>| Attributes {
            owner,
            mtime: timestamp.map(Time::from_nanos),
        };
        match kind {
            FileActionKind::Mkdir {
                path,
                mode,
                make_parents,
                timestamp,
                ..
            } => actions::mkdir(&layer.dest(), path, *mode, *make_parents, attributes(timestamp)),
            FileActionKind::Mkfile {
                path,
                mode,
                data,
                timestamp,
                ..
            } => actions::mkfile(&layer.dest(), path, *mode, data, attributes(timestamp)),
            FileActionKind::Symlink {
                old_path,
                new_path,
                timestamp,
                ..
            } => actions::symlink(&layer.dest(), old_path, new_path, attributes(timestamp)),
            FileActionKind::Rm {
                path,
                allow_not_found,
                allow_wildcard,
            } => {
                layer.mount()?;
                let dest = layer.dest();
                actions::rm(&dest, dest.upper, path, *allow_not_found, *allow_wildcard)
            }
            FileActionKind::Copy(action) => {
                let copy = Copy::prepare(
                    source.unwrap_or(&crate::tree::view::Empty),
                    action,
                    owner,
                    self.is_cancelled,
                )?;
                if copy.needs_mount(self.unpack)? {
                    layer.detach()?;
                    layer.mount()?;
                }
                copy.run(&mut layer.dest(), self.unpack)
            }
        }
    }

    fn owner(&mut self, action: &FileAction) -> Result<Option<Owner>, FileOpError> {
        let owner: &Option<Chown> = match &action.kind {
            FileActionKind::Copy(copy) => &copy.owner,
            FileActionKind::Mkfile { owner, .. }
            | FileActionKind::Mkdir { owner, .. }
            | FileActionKind::Symlink { owner, .. } => owner,
            FileActionKind::Rm { .. } => &None,
        };
        let Some(owner) = owner else { return Ok(None) };
        owner::resolve(owner, |input| self.accounts(input)).map(Some)
    }

    fn accounts(&mut self, input: ActionInput) -> Result<Arc<Root>, FileOpError> {
        let result = self.finished_input(input)?;
        let base = result.as_ref().map_or_else(|| base_of(input), Base::Result);
        self.mounts.accounts(base).map_err(FileOpError::Mount)
    }

    fn source(&mut self, input: Option<ActionInput>) -> Result<Arc<dyn View>, FileOpError> {
        let Some(input) = input else {
            return Ok(Arc::new(crate::tree::view::Empty));
        };
        let result = self.finished_input(input)?;
        let base = result.as_ref().map_or_else(|| base_of(input), Base::Result);
        self.mounts.source(base).map_err(FileOpError::Mount)
    }

    /// The layer that an action changes: that of the action before it, if nobody else needs that one's result.
    fn begin(&mut self, input: Option<ActionInput>) -> Result<OpenLayer<M::Layer>, FileOpError> {
        if let Some(ActionInput::Action(index)) = input
            && self.uses.get(index) == Some(&1)
            && let Some(state @ State::Open(_, false)) = self.states.get_mut(index)
            && let State::Open(layer, _) = std::mem::replace(state, State::Gone)
        {
            return Ok(layer);
        }
        let result = match input {
            Some(input) => self.finished_input(input)?,
            None => None,
        };
        let base = match (&result, input) {
            (Some(result), _) => Base::Result(result),
            (None, Some(input)) => base_of(input),
            (None, None) => Base::Scratch,
        };
        let links_below = self.mounts.links_below(base).map_err(FileOpError::Mount)?;
        let layer = self.mounts.begin(base).map_err(FileOpError::Mount)?;
        Ok(OpenLayer {
            layer,
            mounted: None,
            links: StoreLinks::below(links_below),
        })
    }

    /// The result of an earlier action; `None` for an input of the vertex.
    fn finished_input(&mut self, input: ActionInput) -> Result<Option<M::Result>, FileOpError> {
        match input {
            ActionInput::Vertex(_) => Ok(None),
            ActionInput::Action(index) => self.finished(index).map(Some),
        }
    }

    fn finished(&mut self, index: usize) -> Result<M::Result, FileOpError> {
        let state = self.states.get_mut(index).ok_or(FileOpError::NoResult(index))?;
        let result = match std::mem::replace(state, State::Gone) {
            State::Finished(result) => result,
            State::Open(layer, _) => self.commit(layer)?,
            State::Gone => return Err(FileOpError::NoResult(index)),
        };
        self.states[index] = State::Finished(result.clone());
        Ok(result)
    }
}

impl<M: FileOpMounts> Chain<'_, M> {
    fn commit(&mut self, layer: OpenLayer<M::Layer>) -> Result<M::Result, FileOpError> {
        // The look through a mount ends before the layer does.
        let OpenLayer { layer, mounted, links } = layer;
        drop(mounted);
        let result = self.mounts.commit(layer).map_err(FileOpError::Mount)?;
        let files = links.files();
        if !files.is_empty() {
            self.mounts
                .remember_links(&result, &files)
                .map_err(FileOpError::Mount)?;
        }
        Ok(result)
    }
}

fn base_of<'a, R>(input: ActionInput) -> Base<'a, R> {
    match input {
        ActionInput::Vertex(index) => Base::Input(index),
        // Results of actions are looked up before.
        ActionInput::Action(_) => Base::Scratch,
    }
}

impl<L: LayerMount> OpenLayer<L> {
    fn dest(&mut self) -> Dest<'_> {
        match &self.mounted {
            Some(mounted) => Dest {
                upper: mounted,
                lower: None,
                links: None,
            },
            None => Dest {
                upper: self.layer.upper(),
                lower: self.layer.lower(),
                links: Some(&mut self.links),
            },
        }
    }

    /// From here on, changes go through a mount, where there is something below.
    fn mount(&mut self) -> Result<(), FileOpError> {
        if self.mounted.is_none() && self.layer.lower().is_some() {
            self.mounted = Some(self.layer.mount().map_err(FileOpError::Mount)?);
        }
        Ok(())
    }

    /// Makes files of the layer independent of the store. Called before the layer is mounted or changed in place.
    fn detach(&mut self) -> Result<(), FileOpError> {
        let names = self.links.take();
        if names.is_empty() || self.mounted.is_some() {
            return Ok(());
        }
        place::detach(&self.dest(), names)
    }
}
