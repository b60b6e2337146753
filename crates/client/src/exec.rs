//! Commands that run to their end or are streamed one way.

use atoll_proto::api::{ExecEvent, ExecRequest, ExecResponse, ProcessInfo, ProcessList};
use futures::Stream;

use crate::{Error, Sandbox, sse};

impl Sandbox {
    /// Runs a command to its end and gives its output whole. With `detached` it returns at once, with the pid.
    ///
    /// # Errors
    /// The command cannot be run. A command that fails is no error: see its exit code.
    pub async fn exec(&self, request: &ExecRequest) -> Result<ExecResponse, Error> {
        self.client.post(self.at(&["exec"]), request).await
    }

    /// Runs a command and gives its output as it comes. Dropping the stream ends the command.
    ///
    /// # Errors
    /// The command cannot be run.
    pub async fn exec_stream(
        &self,
        request: &ExecRequest,
    ) -> Result<impl Stream<Item = Result<ExecEvent, Error>> + Send + Unpin + use<>, Error> {
        const KNOWN: &[&str] = &["started", "stdout", "stderr", "exit", "error"];
        let response = self.client.post_for_events(self.at(&["exec"]), request).await?;
        Ok(Box::pin(sse::events(response, KNOWN)))
    }

    /// The processes that were started through the API.
    ///
    /// # Errors
    /// The sandbox does not exist or does not run.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>, Error> {
        let list: ProcessList = self.client.get(self.at(&["processes"])).await?;
        Ok(list.items)
    }

    /// Sends a signal, by its number, to a process that was started through the API; SIGKILL when absent.
    ///
    /// # Errors
    /// There is no such process.
    pub async fn kill(&self, pid: u32, signal: Option<i32>) -> Result<(), Error> {
        let mut url = self.at(&["processes", &pid.to_string()]);
        if let Some(signal) = signal {
            url.query_pairs_mut().append_pair("signal", &signal.to_string());
        }
        self.client.delete(url).await
    }
}
