//! Variables in the values of a certificate list: `${NAME}` is an environment variable, so that one file fits every node.

use std::env::{self, VarError};

use crate::failure::Failure;
use crate::run::node_name;

/// Returns the value of a variable; `None` if the variable is not set.
pub(crate) type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The variable with the node's name. Always set.
pub(super) const NODE_NAME: &str = "NODE_NAME";

/// Returns the variables of this process's environment. `NODE_NAME` is the node's name by kubelet's rules: `node_name`
/// if given, else the environment's, else the host name.
///
/// # Errors
/// [`Failure::Usage`] if the name cannot be that of a node.
pub(crate) fn of_process(node_name: Option<&str>) -> Result<impl Fn(&str) -> Option<String> + use<>, Failure> {
    let from_environment = env::var(NODE_NAME).ok();
    let node = node_name::resolve(node_name.or(from_environment.as_deref()))?;
    Ok(move |name: &str| match env::var(name) {
        _ if name == NODE_NAME => Some(node.clone()),
        Ok(value) => Some(value),
        Err(VarError::NotPresent | VarError::NotUnicode(_)) => None,
    })
}

/// Replaces each `${NAME}` in a text; `$${` stands for `${`. A replaced value is not searched for variables again.
///
/// # Errors
/// A variable that is not set, is empty or has no name, as a clause.
pub(super) fn replace(text: &str, variables: &Variables<'_>) -> Result<String, String> {
    let (mut replaced, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(literal) = before.strip_suffix('$') {
            replaced.extend([literal, "${"]);
            rest = after;
            continue;
        }
        let (name, tail) = after.split_once('}').ok_or("`${` has no `}`; write `$${` for the text `${`")?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(format!(
                "${{{name}}} names no variable: use letters, digits and '_', for example ${{NODE_NAME}}"
            ));
        }
        let value = variables(name).filter(|value| !value.is_empty()).ok_or_else(|| {
            format!(
                "the environment variable {name} is not set or is empty; set it in perennial's environment, or write \
                 the value instead"
            )
        })?;
        replaced.extend([before, &value]);
        rest = tail;
    }
    replaced.push_str(rest);
    Ok(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_once_and_escapes_kept() {
        let variables = |name: &str| match name {
            "NODE_NAME" => Some("worker-1".to_owned()),
            "LOOP" => Some("${NODE_NAME}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let replace = |text| replace(text, &variables);
        assert_eq!(replace("system:node:${NODE_NAME}.x").unwrap(), "system:node:worker-1.x");
        assert_eq!(replace("${LOOP}").unwrap(), "${NODE_NAME}");
        assert_eq!(replace("$${NODE_NAME} $5 }").unwrap(), "${NODE_NAME} $5 }");
        for (wrong, why) in [
            ("${ABSENT}", "ABSENT is not set"),
            ("${EMPTY}", "EMPTY is not set or is empty"),
            ("${NODE_NAME", "has no `}`"),
            ("${}", "names no variable"),
            ("${A-B}", "names no variable"),
        ] {
            assert!(replace(wrong).is_err_and(|error| error.contains(why)), "{wrong}");
        }
    }
}
