//! The command line of the operator.

use std::process::ExitCode;

fn main() -> ExitCode {
    servicenow_credential_operator::cli::main()
}
