//! A daemon's Unix socket, and whether an agent or a gateway answers on it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use passerelle_proto::v1::AgentStatusRequest;
use passerelle_proto::v1::admin_client::AdminClient;
use passerelle_proto::v1::agent_client::AgentClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::arguments::DaemonArguments;
use super::configured::Configured;
use super::failure::{Exit, Failure};

/// How long a daemon may take to answer who it is.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A daemon that answers.
pub(crate) enum Daemon {
    /// An agent.
    Agent(AgentClient<Channel>),
    /// A gateway.
    Gateway(AdminClient<Channel>),
}

impl Daemon {
    /// Connects to the daemon that the arguments name.
    pub(super) async fn connect(arguments: &DaemonArguments) -> Result<Daemon, Failure> {
        let socket = match &arguments.socket {
            Some(socket) => socket.clone(),
            None => Configured::load(&arguments.config)?.socket().to_owned(),
        };
        let channel = channel(&socket).await?;
        let mut agent = AgentClient::new(channel.clone());
        let asked = tokio::time::timeout(ANSWER_MAX, agent.status(AgentStatusRequest {}));
        match asked.await {
            Ok(Ok(_)) => Ok(Daemon::Agent(agent)),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                Ok(Daemon::Gateway(AdminClient::new(channel)))
            }
            Ok(Err(status)) => Err(refused(&status)),
            Err(_) => {
                let what = format_args!("{} does not answer within 10 s", socket.display());
                let remedy = "look at the daemon's own messages; it may be stopping";
                Err(Failure::new(Exit::Unavailable, what, remedy))
            }
        }
    }

    /// Connects to an agent; a gateway is refused with `why`.
    pub(super) async fn agent(
        arguments: &DaemonArguments,
        why: &str,
    ) -> Result<AgentClient<Channel>, Failure> {
        match Daemon::connect(arguments).await? {
            Daemon::Agent(agent) => Ok(agent),
            Daemon::Gateway(_) => {
                let remedy = "name an agent with --config or --socket";
                Err(Failure::new(
                    Exit::Usage,
                    format_args!("a gateway answered: {why}"),
                    remedy,
                ))
            }
        }
    }

    /// Connects to a gateway; an agent is refused with `why`.
    pub(super) async fn gateway(
        arguments: &DaemonArguments,
        why: &str,
    ) -> Result<AdminClient<Channel>, Failure> {
        match Daemon::connect(arguments).await? {
            Daemon::Gateway(gateway) => Ok(gateway),
            Daemon::Agent(_) => {
                let remedy = "name a gateway with --config or --socket";
                Err(Failure::new(
                    Exit::Usage,
                    format_args!("an agent answered: {why}"),
                    remedy,
                ))
            }
        }
    }
}

/// A channel over a Unix socket, connected.
pub(crate) async fn channel(socket: &Path) -> Result<Channel, Failure> {
    let path: PathBuf = socket.to_owned();
    let connect = move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    };
    // The address is needed by HTTP and means nothing on a Unix socket.
    let endpoint = Endpoint::from_static("http://localhost");
    // The channel's own error does not say what the system said.
    if let Err(error) = UnixStream::connect(socket).await {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "run the command as the daemon's own user",
            _ => "start the daemon, or name its socket with --socket",
        };
        let what = format_args!("nothing answers on {}: {error}", socket.display());
        return Err(Failure::new(Exit::Unavailable, what, remedy));
    }
    let connected = endpoint
        .connect_with_connector(tower::service_fn(connect))
        .await;
    connected.map_err(|error| {
        let what = format_args!("{}: {error}", socket.display());
        Failure::new(
            Exit::Unavailable,
            what,
            "start the daemon, or name another socket",
        )
    })
}

/// What a daemon refused, as a failure of the command.
pub(crate) fn refused(status: &Status) -> Failure {
    let (exit, remedy) = match status.code() {
        Code::NotFound => (
            Exit::NoInput,
            "look at `passerelle queue` for what is known",
        ),
        Code::InvalidArgument => (Exit::Usage, "correct the arguments"),
        Code::FailedPrecondition => (
            Exit::NoPermission,
            "`passerelle convention show` says which flow joins whom",
        ),
        Code::Unavailable => (Exit::Unavailable, "try again when the daemon runs"),
        _ => (Exit::Protocol, "look at the daemon's own messages"),
    };
    Failure::new(exit, status.message(), remedy)
}
