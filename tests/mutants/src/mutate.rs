//! All mutants of a source file in one text: each place asks `crate::mutant(NUMBER)` which of the two
//! it should be, so that one build has them all.

use std::ops::Range;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Lit, Pat, Stmt, UnOp};

/// A place that can be changed.
pub struct Mutant {
    pub line: usize,
    /// What is changed, in words.
    pub what: String,
    range: Range<usize>,
    /// What stands there instead: text, and parts of the source.
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    /// Asks whether this mutant is the one.
    IsMutant,
    Source(Range<usize>),
}

/// The mutants of a file; where one encloses another, the outer one comes first.
pub fn find(source: &str) -> Vec<Mutant> {
    let file = syn::parse_file(source).expect("Rust");
    let mut finder = Finder { source, mutants: Vec::new() };
    finder.visit_file(&file);
    finder.mutants
}

/// The source in which the mutant with the number `first` + n is `mutants[n]`. Those that are not
/// `wanted` are left as they are.
pub fn render(
    source: &str,
    mutants: &[Mutant],
    first: usize,
    root: &str,
    wanted: &dyn Fn(usize) -> bool,
) -> String {
    let renderer = Renderer { source, mutants, first, root, wanted };
    renderer.render(0..source.len(), 0)
}

struct Renderer<'a> {
    source: &'a str,
    mutants: &'a [Mutant],
    first: usize,
    /// The path of the crate: `crate`, or its name in the binary.
    root: &'a str,
    wanted: &'a dyn Fn(usize) -> bool,
}

impl Renderer<'_> {
    /// This range, with the mutants in it from the one at `from` on.
    fn render(&self, range: Range<usize>, from: usize) -> String {
        let (mut text, mut at) = (String::new(), range.start);
        for (index, mutant) in self.mutants.iter().enumerate().skip(from) {
            let is_inside = mutant.range.start >= at && mutant.range.end <= range.end;
            if !is_inside || !(self.wanted)(self.first + index) {
                continue;
            }
            text += &self.source[at..mutant.range.start];
            for part in &mutant.parts {
                match part {
                    Part::Text(part) => text += part,
                    Part::IsMutant => {
                        text += &format!("{}::mutant({})", self.root, self.first + index);
                    }
                    Part::Source(part) => text += &self.render(part.clone(), index + 1),
                }
            }
            at = mutant.range.end;
        }
        text + &self.source[at..range.end]
    }
}

struct Finder<'a> {
    source: &'a str,
    mutants: Vec<Mutant>,
}

impl Finder<'_> {
    fn add(&mut self, span: Span, what: String, parts: Vec<Part>) {
        let range = span.byte_range();
        self.mutants.push(Mutant { line: span.start().line, what, range, parts });
    }

    fn text(&self, span: Span) -> String {
        let text = self.source[span.byte_range()].split_whitespace().collect::<Vec<_>>().join(" ");
        if text.chars().count() > 70 {
            text.chars().take(67).collect::<String>() + "..."
        } else {
            text
        }
    }

    /// The opposite of a condition.
    fn negate(&mut self, condition: &Expr) {
        if matches!(condition, Expr::Let(_)) {
            return;
        }
        let span = condition.span();
        let parts = vec![
            text("(("),
            Part::Source(span.byte_range()),
            text(") != "),
            Part::IsMutant,
            text(")"),
        ];
        self.add(span, format!("`{}` negated", self.text(span)), parts);
    }

    /// A statement that is left out.
    fn leave_out(&mut self, span: Span) {
        let parts = vec![
            text("if !"),
            Part::IsMutant,
            text(" { "),
            Part::Source(span.byte_range()),
            text(" }"),
        ];
        self.add(span, format!("`{}` left out", self.text(span)), parts);
    }

    fn binary(&mut self, binary: &syn::ExprBinary) {
        let (other, is_logical) = match binary.op {
            BinOp::And(_) => ("||", true),
            BinOp::Or(_) => ("&&", true),
            BinOp::Eq(_) => ("!=", false),
            BinOp::Ne(_) => ("==", false),
            BinOp::Lt(_) => ("<=", false),
            BinOp::Le(_) => ("<", false),
            BinOp::Gt(_) => (">=", false),
            BinOp::Ge(_) => (">", false),
            BinOp::Add(_) => ("-", false),
            BinOp::Sub(_) => ("+", false),
            BinOp::Mul(_) => ("+", false),
            BinOp::Div(_) => ("*", false),
            BinOp::Rem(_) => ("/", false),
            BinOp::AddAssign(_) => ("-=", false),
            BinOp::SubAssign(_) => ("+=", false),
            BinOp::BitOrAssign(_) => ("&=", false),
            BinOp::BitAndAssign(_) => ("|=", false),
            _ => return,
        };
        let (left, right) = (binary.left.span().byte_range(), binary.right.span().byte_range());
        let op = self.source[left.end..right.start].to_owned();
        let (left, right) = (|| Part::Source(left.clone()), || Part::Source(right.clone()));
        let parts = if is_logical {
            // Without the operands twice, which would double what is in them.
            let compared = if other == "||" { " != " } else { " == " };
            vec![
                text("({ let left = "),
                left(),
                text("; if left"),
                text(compared),
                Part::IsMutant,
                text(" { "),
                right(),
                text(" } else { left } })"),
            ]
        } else {
            let (mutant, same) = (format!(" {other} "), text(&op));
            vec![
                text("(if "),
                Part::IsMutant,
                text(" { "),
                left(),
                text(&mutant),
                right(),
                text(" } else { "),
                left(),
                same,
                right(),
                text(" })"),
            ]
        };
        let what = format!("`{other}` in `{}`", self.text(binary.span()));
        self.add(binary.span(), what, parts);
    }
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

impl<'ast> Visit<'ast> for Finder<'_> {
    // What the compiler computes cannot ask at run time.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
    fn visit_pat(&mut self, _: &'ast Pat) {}

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if function.sig.constness.is_none() {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if function.sig.constness.is_none() {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        match statement {
            Stmt::Expr(expression, Some(_)) => {
                let is_effect = match expression {
                    Expr::Binary(binary) => matches!(
                        binary.op,
                        BinOp::AddAssign(_) | BinOp::SubAssign(_) | BinOp::BitOrAssign(_)
                    ),
                    Expr::Assign(_) | Expr::Call(_) | Expr::MethodCall(_) | Expr::Try(_) => true,
                    _ => false,
                };
                if is_effect {
                    self.leave_out(statement.span());
                }
            }
            Stmt::Local(local) if matches!(local.pat, Pat::Wild(_)) => {
                self.leave_out(statement.span());
            }
            _ => {}
        }
        visit::visit_stmt(self, statement);
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        match expression {
            Expr::If(branch) => self.negate(&branch.cond),
            Expr::While(branch) => self.negate(&branch.cond),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                let (span, inner) = (expression.span(), unary.expr.span().byte_range());
                let parts =
                    vec![text("(("), Part::Source(inner), text(") == "), Part::IsMutant, text(")")];
                self.add(span, format!("`{}` without `!`", self.text(span)), parts);
            }
            Expr::Lit(literal) => {
                if let Lit::Bool(value) = &literal.lit {
                    let parts = vec![text(if value.value { "!" } else { "" }), Part::IsMutant];
                    self.add(literal.span(), format!("`{}`", !value.value), parts);
                }
            }
            _ => {}
        }
        visit::visit_expr(self, expression);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if let Some((_, guard)) = &arm.guard {
            self.negate(guard);
        }
        visit::visit_arm(self, arm);
    }
}
