//! An explanation for people.

use std::fmt;

use super::Explanation;

/// Columns that the names of stages take.
const STAGE_COLUMNS: usize = 10;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "by port {}", self.port)?;
        headers(f, &self.before)?;
        writeln!(f)?;
        for step in &self.steps {
            for (line, found) in step.found.iter().enumerate() {
                let stage = if line == 0 { step.stage.as_str() } else { "" };
                writeln!(f, "{stage:STAGE_COLUMNS$} {found}")?;
            }
        }
        if let Some(connection) = &self.connection {
            writeln!(f, "\nIt belongs to an open connection: {connection}")?;
            writeln!(f, "What stands above is what a new one would meet.")?;
        }
        match (&self.reason, &self.port_out) {
            (Some(reason), _) => writeln!(f, "\n{}: {reason}", self.verdict)?,
            (None, Some(port)) => writeln!(f, "\n{} by port {port}", self.verdict)?,
            (None, None) => writeln!(f, "\n{}", self.verdict)?,
        }
        headers(f, &self.after)
    }
}

fn headers(f: &mut fmt::Formatter<'_>, headers: &[String]) -> fmt::Result {
    headers.iter().try_for_each(|header| writeln!(f, "  {header}"))
}
