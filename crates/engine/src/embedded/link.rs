use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use engine_ipc::{FRAME_BYTES_MAX, FrameError, FromWorker, ToWorker, decode, encode};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    process::Child,
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

use super::launch::Launched;

/// Frames read and not yet handled; the reader waits beyond it.
const INCOMING_FRAMES_MAX: usize = 64;
/// Grace between a closed socket and an unasked exit, to learn the exit status for the log.
const EXIT_STATUS_WAIT: Duration = Duration::from_secs(1);

/// The connection to one worker. Dropping it kills the worker.
pub(super) struct Link {
    incoming: mpsc::Receiver<Result<FromWorker, FrameError>>,
    outgoing: mpsc::Sender<ToWorker>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    child: Option<Child>,
    /// Since when it is ready.
    pub(super) ready_at: Option<Instant>,
    /// When it last said anything.
    pub(super) heard_at: Instant,
    /// When the next ping is due.
    pub(super) ping_at: Instant,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It crashed, exited, or did what made us kill it.
    ByItself,
    /// Someone else sent it a signal: an operator, or the kernel when memory ran out.
    FromOutside,
}

/// The worker does not read its socket: it is hung.
#[derive(Debug)]
pub(super) struct OutgoingFull;

impl Link {
    /// Wires a worker up. `outgoing_max` bounds the frames that wait for it.
    pub(super) fn new(launched: Launched, outgoing_max: usize) -> Self {
        let (incoming_sender, incoming) = mpsc::channel(INCOMING_FRAMES_MAX);
        let (outgoing, outgoing_receiver) = mpsc::channel(outgoing_max);
        let reader = tokio::spawn(read_all(launched.reader, incoming_sender));
        let writer = tokio::spawn(write_all(launched.writer, outgoing_receiver));
        let now = Instant::now();
        Self { incoming, outgoing, reader, writer, child: launched.child, ready_at: None, heard_at: now, ping_at: now }
    }

    /// The worker's next frame; `None` when its socket closed. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Option<Result<FromWorker, FrameError>> {
        self.incoming.recv().await
    }

    /// Queues a frame without waiting. A worker whose socket just closed swallows it: [`Link::receive`] tells.
    pub(super) fn send(&self, frame: ToWorker) -> Result<(), OutgoingFull> {
        match self.outgoing.try_send(frame) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(OutgoingFull),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Ends the worker and logs how it went; waits for its status, for a bounded time. `is_over`: its socket closed, so that
    /// its own status tells more than our SIGKILL would.
    pub(super) async fn end(mut self, reason: &str, is_over: bool) -> Ended {
        let Some(mut child) = self.child.take() else { return Ended::ByItself };
        if is_over && let Ok(Ok(status)) = tokio::time::timeout(EXIT_STATUS_WAIT, child.wait()).await {
            let ended = by_whom(status);
            tracing::warn!(%reason, %status, ?ended, "worker ended");
            return ended;
        }
        // A status of its own that came meanwhile is as good.
        let _ = child.start_kill();
        match tokio::time::timeout(EXIT_STATUS_WAIT, child.wait()).await {
            Ok(Ok(status)) => tracing::warn!(%reason, %status, "worker killed"),
            Ok(Err(error)) => tracing::warn!(%reason, %error, "worker killed, its status is unknown"),
            // In an uninterruptible wait (a dead disk); the runtime reaps it when it ends.
            Err(_elapsed) => tracing::warn!(%reason, "worker killed, it has not ended yet"),
        }
        Ended::ByItself
    }

    /// Asks the worker to exit, kills it after `grace`.
    pub(super) async fn shut_down(mut self, grace: Duration) {
        if self.send(ToWorker::Shutdown).is_ok() {
            // The writer ends after this frame. A worker that does not take it is killed below.
            let _ = tokio::time::timeout(grace, &mut self.writer).await;
        }
        let Some(mut child) = self.child.take() else { return };
        if tokio::time::timeout(grace, child.wait()).await.is_err() {
            tracing::warn!(grace_seconds = grace.as_secs_f64(), "the worker did not exit when asked, killing it");
            let _ = child.kill().await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

/// Crashes are SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE and exit codes; nothing in a worker sends it these.
fn by_whom(status: std::process::ExitStatus) -> Ended {
    const FROM_OUTSIDE: [i32; 5] = [1, 2, 3, 9, 15]; // SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM: signal(7)
    if status.signal().is_some_and(|signal| FROM_OUTSIDE.contains(&signal)) {
        Ended::FromOutside
    } else {
        Ended::ByItself
    }
}

async fn read_all(mut reader: impl AsyncRead + Unpin, frames: mpsc::Sender<Result<FromWorker, FrameError>>) {
    loop {
        let frame = read_frame(&mut reader).await;
        let is_last = frame.is_err();
        if frames.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<FromWorker, FrameError> {
    let length = reader.read_u32_le().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    // Grows with what arrives: a wrong length alone allocates nothing.
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(FrameError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    decode(&body)
}

async fn write_all(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<ToWorker>) {
    while let Some(frame) = frames.recv().await {
        let bytes = match encode(&frame) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Requests are validated and bounded far below the frame limit.
                tracing::error!(%error, "a frame for the worker cannot be encoded");
                return;
            }
        };
        // The reader notices a closed socket too, and tells the supervisor.
        if writer.write_all(&bytes).await.is_err() || frame == ToWorker::Shutdown {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::launch::{Launch as _, Launcher, WorkerCommand};

    #[tokio::test]
    async fn a_crash_is_told_from_a_kill() {
        let check = async |script: &str, is_over: bool, expected: Ended| {
            let command = WorkerCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
            let link = Link::new(Launcher::new(command).launch().expect("launches"), 1);
            assert_eq!(link.end("test", is_over).await, expected, "{script}");
        };
        check("exit 1", true, Ended::ByItself).await;
        check("kill -ABRT $$", true, Ended::ByItself).await;
        check("kill -SEGV $$", true, Ended::ByItself).await;
        check("kill -KILL $$", true, Ended::FromOutside).await;
        check("kill -TERM $$", true, Ended::FromOutside).await;
        // Hung: the SIGKILL is ours.
        check("exec sleep 600", false, Ended::ByItself).await;
        // Its socket is closed and it goes on all the same.
        check("exec 0<&-; exec sleep 600", true, Ended::ByItself).await;
    }
}
