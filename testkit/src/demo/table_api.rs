//! One request to the Table API, as a workload would make it.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// The HTTP status of a GET with this bearer token.
pub(super) async fn status(instance: SocketAddr, token: &str) -> io::Result<u16> {
    let answer = async {
        let mut stream = TcpStream::connect(instance).await?;
        // HTTP/1.0, so that the answer ends with the connection (RFC 9112, section 9.3).
        let request = format!(
            "GET /api/now/table/sys_user?sysparm_limit=1 HTTP/1.0\r\n\
             Host: {instance}\r\n\
             Accept: application/json\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let status = answer.get(9..12).and_then(|code| str::from_utf8(code).ok());
    status
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
