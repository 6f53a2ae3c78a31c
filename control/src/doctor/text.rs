//! Findings for people.

use std::fmt;

use super::finding::{Finding, Verdict};

impl fmt::Display for Finding {
    /// A line where all is well; else what was found, what is wanted and what to do, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, verdict, found, wanted, remedy, is_safe } = self;
        if *verdict == Verdict::Fine {
            return writeln!(f, "{verdict:<8}{check:<13}{found}");
        }
        writeln!(f, "{verdict:<8}{check:<13}found   {found}")?;
        writeln!(f, "{:<21}wanted  {wanted}", "")?;
        if let Some(remedy) = remedy {
            let by_us = if *is_safe { "    (--fix does it)" } else { "" };
            writeln!(f, "{:<21}to do   {remedy}{by_us}", "")?;
        }
        Ok(())
    }
}
