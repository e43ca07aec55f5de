//! The threads of the worker.

use std::{
    io::Write as _,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use engine_ipc::{
    Event, FromWorker, Refusal, SequenceEvent, Submit, ToWorker, WorkerConfig, WorkerId, encode, read_frame,
    write_frame,
};

use crate::{
    WorkerError,
    decoder::Decoder,
    load, prepare,
    prepare::{Prepared, Unwanted},
    scheduler::{Limits, Scheduler},
    template,
};

/// Loading frames a second, at most.
const LOADING_FRAME_INTERVAL: Duration = Duration::from_millis(50);
/// Stack of the prepare thread. Templates nest, and schema and grammar compilers recurse (`schema` bounds how deep; 64 MiB
/// would do for it). Memory is taken only as it is touched.
const PREPARE_STACK_BYTES: usize = template::STACK_BYTES;
/// Prompts over this are prepared on a thread of their own, so that they keep only one another waiting. Tokenizing takes
/// 4 ms for 8 KiB, 40 ms for 64 KiB, 1.2 s for 1 MiB and 5.6 s for 4 MiB, the largest body that the node takes by default
/// (SmolLM2 on a busy vCPU); trimming a history tokenizes it some times over.
const LONG_PROMPT_BYTES: usize = 16 * 1024;
/// Requests between the threads beyond those that the queue and the sequences hold.
const CHANNEL_SLACK: usize = 64;

/// What the step thread hears.
pub(crate) enum ToStep {
    /// A request arrived; its preparation has begun.
    Arrived(WorkerId),
    /// It can have a sequence.
    Prepared(Box<Prepared>),
    /// It cannot be answered.
    Refused(WorkerId, Refusal),
    Cancel(WorkerId),
    Ping(u64),
    /// The engine is gone, or wants the worker to be.
    Stop,
}

/// Serves the engine at the other end of `socket` until it closes it or says so.
///
/// # Errors
/// [`WorkerError`]. A model that cannot be loaded is also told to the engine.
pub fn run(socket: UnixStream) -> Result<(), WorkerError> {
    let mut reader = socket.try_clone().map_err(WorkerError::Thread)?;
    let mut writer = socket;
    let config = match read_frame(&mut reader) {
        Ok(ToWorker::Configure(config)) => *config,
        Ok(_) => return Err(WorkerError::NotConfigured),
        Err(error) if error.is_closed() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let result = serve(&config, reader, &mut writer);
    if let Err(WorkerError::LoadFailed(reason)) = &result {
        write_frame(&mut writer, &FromWorker::LoadFailed { reason: reason.clone() })?;
    }
    result
}

fn serve(config: &WorkerConfig, reader: UnixStream, writer: &mut UnixStream) -> Result<(), WorkerError> {
    let mut loading = writer.try_clone().map_err(WorkerError::Thread)?;
    let mut told = Instant::now();
    let progress = move |done: f32| {
        if told.elapsed() >= LOADING_FRAME_INTERVAL {
            told = Instant::now();
            let per_mille = (done.clamp(0.0, 1.0) * 1000.0) as u16;
            // Nobody needs the model when the engine is gone: loading ends then.
            return write_frame(&mut loading, &FromWorker::Loading { per_mille }).is_ok();
        }
        true
    };
    let loaded = load::load(config, progress).map_err(WorkerError::LoadFailed)?;
    let context = load::context(&loaded, config).map_err(WorkerError::LoadFailed)?;
    let info = load::info(&loaded, config);
    let decoder = Decoder::new(&loaded.model, context, config.batch_tokens, info.reasoning_tags.as_ref());
    write_frame(writer, &FromWorker::Ready(Box::new(info)))?;

    let capacity = (config.queue_max as usize).saturating_add(config.sequences as usize).saturating_add(CHANNEL_SLACK);
    // Each request is at most three messages to the step thread: arrived, prepared, cancel.
    let (to_step, from_all) = sync_channel(capacity.saturating_mul(3));
    let (to_prepare, submissions) = sync_channel(capacity);
    let (to_prepare_long, long_submissions) = sync_channel(capacity);
    let unwanted = Unwanted::default();
    let unblock = reader.try_clone().map_err(WorkerError::Thread)?;
    thread::scope(|scope| {
        let (loaded, unwanted) = (&loaded, &unwanted);
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        for (name, submissions, to_step) in
            [("prepare", submissions, to_step.clone()), ("prepare-long", long_submissions, to_step.clone())]
        {
            spawn(name)
                .stack_size(PREPARE_STACK_BYTES)
                .spawn_scoped(scope, move || {
                    prepare::run(&submissions, unwanted, &to_step, |submit| prepare::prepare(loaded, submit));
                })
                .map_err(WorkerError::Thread)?;
        }
        spawn("reader")
            .spawn_scoped(scope, move || read(reader, &to_prepare, &to_prepare_long, &to_step))
            .map_err(WorkerError::Thread)?;
        let limits = Limits {
            sequences: config.sequences,
            context_tokens: loaded.context_tokens,
            batch_tokens: config.batch_tokens,
            queue_max: config.queue_max,
            prefix_cache: config.prefix_cache,
        };
        let result = step(Scheduler::new(decoder, limits), &from_all, unwanted, writer);
        // The reader may be waiting for a frame; the prepare thread ends when it does.
        let _ = unblock.shutdown(Shutdown::Both);
        drop(from_all);
        result
    })
}

fn read(
    mut socket: UnixStream,
    to_prepare: &SyncSender<Box<Submit>>,
    to_prepare_long: &SyncSender<Box<Submit>>,
    to_step: &SyncSender<ToStep>,
) {
    loop {
        let message = match read_frame(&mut socket) {
            Ok(ToWorker::Submit(submit)) => {
                let arrived = ToStep::Arrived(submit.id);
                let is_long = prepare::prompt_bytes(&submit.prompt) > LONG_PROMPT_BYTES;
                let to_prepare = if is_long { to_prepare_long } else { to_prepare };
                if to_step.send(arrived).is_err() || to_prepare.send(submit).is_err() {
                    return;
                }
                continue;
            }
            Ok(ToWorker::Cancel(id)) => ToStep::Cancel(id),
            Ok(ToWorker::Ping(number)) => ToStep::Ping(number),
            Ok(ToWorker::Configure(_) | ToWorker::Shutdown) | Err(_) => ToStep::Stop,
        };
        let stop = matches!(message, ToStep::Stop);
        if to_step.send(message).is_err() || stop {
            return;
        }
    }
}

/// The step loop. A failure of llama.cpp ends the worker: the engine resubmits what ran to the next one, which loses
/// nothing, where a context in an unknown state could lose everything.
fn step(
    mut scheduler: Scheduler<Decoder<'_>>,
    messages: &Receiver<ToStep>,
    unwanted: &Unwanted,
    writer: &mut UnixStream,
) -> Result<(), WorkerError> {
    loop {
        let mut events = Vec::new();
        // A cancelled request has no event, but the gauges must show that its sequence is free.
        let mut cancelled = false;
        loop {
            // With nothing to compute and nothing to tell, sleep until something comes.
            let message = if scheduler.is_idle() && events.is_empty() && !cancelled {
                match messages.recv() {
                    Ok(message) => message,
                    Err(_) => return Ok(()),
                }
            } else {
                match messages.try_recv() {
                    Ok(message) => message,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            };
            match message {
                ToStep::Arrived(id) => {
                    let refused = scheduler.arrived(id);
                    if refused.is_some() {
                        unwanted.insert(id);
                    }
                    events.extend(refused);
                }
                ToStep::Prepared(prepared) => {
                    unwanted.over(prepared.id);
                    events.extend(scheduler.prepared(*prepared));
                }
                ToStep::Refused(id, refusal) => {
                    unwanted.over(id);
                    if scheduler.forget(id) {
                        events.push(SequenceEvent { id, event: Event::Refused(refusal) });
                    }
                }
                ToStep::Cancel(id) => {
                    if scheduler.cancel(id) {
                        unwanted.insert(id);
                    }
                    cancelled = true;
                }
                ToStep::Ping(number) => write_frame(writer, &FromWorker::Pong(number))?,
                ToStep::Stop => return Ok(()),
            }
        }
        let stats = scheduler.step(&mut events).map_err(|error| {
            tracing::error!(%error, "llama.cpp could not compute a step; this worker ends and another takes over");
            WorkerError::Step(error)
        })?;
        if !events.is_empty() || cancelled || stats.step_us > 0 {
            writer.write_all(&encode(&FromWorker::Step { events, stats })?).map_err(engine_ipc::FrameError::from)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_schema_that_passes_fits_the_prepare_threads_stack() {
        // As many references as may be, each at the bottom of as many arrays as may be, inside the one before.
        let (refs, arrays) = (127, 55);
        let next = |n: usize| format!(r##"{{"$ref":"#/$defs/d{n}"}}"##);
        let deep = |n| format!("{}{}{}", r#"{"items":"#.repeat(arrays), next(n), "}".repeat(arrays));
        let definitions: String = (0..refs).map(|n| format!(r#""d{n}":{},"#, deep(n + 1))).collect();
        let schema = format!(r#"{{"$defs":{{{definitions}"d{refs}":{{"type":"null"}}}},"items":{}}}"#, next(0));
        let checked = crate::schema::check(&schema).expect("it is within each limit");
        let convert = move || llama_cpp_2::json_schema_to_grammar(&checked).is_ok();
        let thread = thread::Builder::new().stack_size(PREPARE_STACK_BYTES).spawn(convert).expect("a thread");
        assert!(thread.join().expect("no panic"));
    }
}
