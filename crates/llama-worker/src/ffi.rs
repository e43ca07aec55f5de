//! The only unsafe code of the crate: functions of the C API that `llama-cpp-2` does not wrap as we need them, and
//! standard error while C++ writes to it.
#![allow(unsafe_code, reason = "calls the C API of llama.cpp itself")]

use std::{
    collections::VecDeque,
    ffi::{CStr, CString, c_char, c_void},
    fs::File,
    mem::ManuallyDrop,
    os::fd::{FromRawFd as _, OwnedFd},
    sync::{Mutex, Once, PoisonError},
};

use llama_cpp_sys_2 as sys;

/// Error lines of llama.cpp that are kept to explain a failure.
const ERROR_LINES_MAX: usize = 4;

static ERRORS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Sends llama.cpp's own log to `tracing` at debug, and keeps its last error lines for [`take_errors`].
pub(crate) fn capture_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `log` is a function for the life of the program, needs no user data, and may be called by any thread.
        unsafe {
            sys::llama_log_set(Some(log), std::ptr::null_mut());
            sys::ggml_log_set(Some(log), std::ptr::null_mut());
        }
    });
}

/// The last error lines since the previous call, joined; empty if there are none.
pub(crate) fn take_errors() -> String {
    let mut errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
    errors.drain(..).collect::<Vec<_>>().join("; ")
}

extern "C" fn log(level: sys::ggml_log_level, text: *const c_char, _data: *mut c_void) {
    let error = level == sys::GGML_LOG_LEVEL_ERROR;
    if text.is_null() || (!error && !tracing::enabled!(target: "llama_cpp", tracing::Level::DEBUG)) {
        return;
    }
    // SAFETY: llama.cpp passes a zero-terminated string that lives through the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    if error {
        let mut errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() == ERROR_LINES_MAX {
            errors.pop_front();
        }
        errors.push_back(text.to_owned());
    }
    tracing::debug!(target: "llama_cpp", "{text}");
}

/// Runs `work` with standard error going nowhere, for the whole process: llama.cpp prints a grammar that it cannot parse,
/// and the schema that it was made of is a client's. Where that cannot be arranged, `work` is not done.
pub(crate) fn without_stderr<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    /// Two at a time would take each other's silence for the real thing.
    static SILENCE: Mutex<()> = Mutex::new(());
    let _alone = SILENCE.lock().unwrap_or_else(PoisonError::into_inner);
    let nowhere = File::options().write(true).open("/dev/null").ok()?;
    // SAFETY: descriptor 2 is open for the life of a Rust program (the runtime sees to it before `main`), and is never
    // closed through this value, which is not dropped.
    let mut stderr = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(2) });
    let kept = stderr.try_clone().ok()?;
    rustix::io::dup2(&nowhere, &mut stderr).ok()?;
    let result = work();
    // Fails only for a descriptor that is not open, and both are.
    let _ = rustix::io::dup2(&kept, &mut stderr);
    result
}

/// CPU features and back ends compiled in, in llama.cpp's words.
pub(crate) fn system_info() -> String {
    // SAFETY: returns a static zero-terminated string.
    unsafe { CStr::from_ptr(sys::llama_print_system_info()) }.to_string_lossy().trim().to_owned()
}

/// `llama_model_quantize`: converts every weight matrix of `input` to `ftype` and writes `output`. C++ exceptions are
/// caught inside it.
pub(crate) fn model_quantize(
    input: &CString,
    output: &CString,
    ftype: sys::llama_ftype,
    pure: bool,
) -> Result<(), String> {
    // SAFETY: takes nothing, returns a plain struct.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.ftype = ftype;
    params.allow_requantize = true;
    params.pure_ = pure;
    // SAFETY: both strings are zero-terminated and live through the call, as does `params`, whose pointers are null.
    let code = unsafe { sys::llama_model_quantize(input.as_ptr(), output.as_ptr(), &raw const params) };
    if code == 0 { Ok(()) } else { Err(take_errors()) }
}
