//! The parser of templates.

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::webhooks::template::tokens::{TemplateToken, TokenReader, error_at};
use crate::webhooks::template::{
    FieldPath, MAX_DEPTH, TemplateCommand, TemplateFunction, TemplateNode, TemplateOperand, TemplatePipeline,
};

/// Parses a whole template. Errors: `Invalid`, with line and column.
pub(super) fn parse_nodes(source: &str) -> Result<Vec<TemplateNode>, Error> {
    let mut parser = TemplateParser {
        tokens: TokenReader { source, at: 0 },
        trims_next: false,
    };
    let (nodes, end) = parser.parse_block(0)?;
    match end.keyword {
        BlockKeyword::EndOfTemplate => Ok(nodes),
        _ => Err(error_at(source, end.offset, "there is no block that this ends")),
    }
}

/// What ends a block.
struct BlockEnd {
    keyword: BlockKeyword,
    offset: usize,
}

enum BlockKeyword {
    EndOfTemplate,
    End,
    Else,
    ElseIf(TemplatePipeline),
}

struct TemplateParser<'a> {
    tokens: TokenReader<'a>,
    /// The last action has removed the white space after it.
    trims_next: bool,
}

impl TemplateParser<'_> {
    fn fail<T>(&self, offset: usize, why: &str) -> Result<T, Error> {
        self.tokens.fail(offset, why)
    }

    fn rest(&self) -> &str {
        self.tokens.rest()
    }

    /// Parses nodes up to what ends their block.
    fn parse_block(&mut self, depth: usize) -> Result<(Vec<TemplateNode>, BlockEnd), Error> {
        let mut nodes = Vec::new();
        loop {
            let Some(offset) = self.read_literal(&mut nodes) else {
                let end = BlockEnd {
                    keyword: BlockKeyword::EndOfTemplate,
                    offset: self.tokens.at,
                };
                return Ok((nodes, end));
            };
            if self.skip_comment(offset)? {
                continue;
            }
            self.tokens.skip_spaces();
            let keyword_length = self.rest().find(|c: char| !c.is_ascii_lowercase());
            let keyword = self.rest()[..keyword_length.unwrap_or(self.rest().len())].to_owned();
            match keyword.as_str() {
                "if" | "with" | "range" => {
                    if depth >= MAX_DEPTH {
                        return self.fail(offset, "blocks are nested too deep");
                    }
                    self.tokens.at += keyword.len();
                    nodes.push(self.parse_nested(&keyword, offset, depth + 1)?);
                }
                "end" | "else" => {
                    self.tokens.at += keyword.len();
                    let keyword = self.parse_block_keyword(&keyword)?;
                    return Ok((nodes, BlockEnd { keyword, offset }));
                }
                _ => nodes.push(TemplateNode::Output(self.parse_pipeline(0)?)),
            }
        }
    }

    /// Reads up to the next action, whose offset it returns; `None`: there is none.
    fn read_literal(&mut self, nodes: &mut Vec<TemplateNode>) -> Option<usize> {
        let rest = self.rest();
        let open = rest.find("{{");
        let mut literal = &rest[..open.unwrap_or(rest.len())];
        if self.trims_next {
            literal = literal.trim_start();
        }
        let behind = open.map_or("", |open| &rest[open + 2..]);
        let trims_before = behind.starts_with('-') && behind[1..].starts_with(char::is_whitespace);
        if trims_before {
            literal = literal.trim_end();
        }
        if !literal.is_empty() {
            nodes.push(TemplateNode::Literal(literal.to_owned()));
        }
        self.trims_next = false;
        match open {
            None => {
                self.tokens.at = self.tokens.source.len();
                None
            }
            Some(open) => {
                let offset = self.tokens.at + open;
                self.tokens.at = offset + 2 + usize::from(trims_before);
                Some(offset)
            }
        }
    }

    /// Skips a comment, if the action is one.
    fn skip_comment(&mut self, offset: usize) -> Result<bool, Error> {
        let Some(comment) = self.rest().trim_start().strip_prefix("/*") else {
            return Ok(false);
        };
        let Some((_, behind)) = comment.split_once("*/") else {
            return self.fail(offset, "a comment has no end");
        };
        self.tokens.at = self.tokens.source.len() - behind.len();
        match self.tokens.next_token()? {
            (TemplateToken::Close { trims }, _) => {
                self.trims_next = trims;
                Ok(true)
            }
            (_, at) => self.fail(at, "a comment must be the whole action"),
        }
    }

    fn parse_block_keyword(&mut self, keyword: &str) -> Result<BlockKeyword, Error> {
        let (token, offset) = self.tokens.next_token()?;
        match (keyword, token) {
            ("end", TemplateToken::Close { trims }) => {
                self.trims_next = trims;
                Ok(BlockKeyword::End)
            }
            ("else", TemplateToken::Close { trims }) => {
                self.trims_next = trims;
                Ok(BlockKeyword::Else)
            }
            ("else", TemplateToken::Word(word)) if word == "if" => {
                Ok(BlockKeyword::ElseIf(self.parse_pipeline(0)?))
            }
            _ => self.fail(offset, &format!("nothing may follow {keyword}")),
        }
    }

    /// Parses the pipeline and the blocks of `if`, `with` or `range`, up to its end.
    fn parse_nested(&mut self, keyword: &str, offset: usize, depth: usize) -> Result<TemplateNode, Error> {
        let pipeline = self.parse_pipeline(0)?;
        self.parse_branches(keyword, pipeline, offset, depth)
    }

    fn parse_branches(
        &mut self,
        keyword: &str,
        pipeline: TemplatePipeline,
        offset: usize,
        depth: usize,
    ) -> Result<TemplateNode, Error> {
        let (body, end) = self.parse_block(depth)?;
        let otherwise = match end.keyword {
            BlockKeyword::EndOfTemplate => {
                return self.fail(offset, &format!("{keyword} has no end"));
            }
            BlockKeyword::End => Vec::new(),
            BlockKeyword::Else => self.parse_last_branch(keyword, offset, depth)?,
            BlockKeyword::ElseIf(_) if keyword != "if" => {
                return self.fail(end.offset, &format!("{keyword} has no else if"));
            }
            BlockKeyword::ElseIf(_) if depth >= MAX_DEPTH => {
                return self.fail(end.offset, "there are too many else if");
            }
            BlockKeyword::ElseIf(condition) => {
                vec![self.parse_branches(keyword, condition, end.offset, depth + 1)?]
            }
        };
        Ok(match keyword {
            "if" => TemplateNode::If {
                condition: pipeline,
                body,
                otherwise,
            },
            "with" => TemplateNode::With {
                value: pipeline,
                body,
                otherwise,
            },
            _ => TemplateNode::Range {
                list: pipeline,
                body,
                otherwise,
            },
        })
    }

    fn parse_last_branch(
        &mut self,
        keyword: &str,
        offset: usize,
        depth: usize,
    ) -> Result<Vec<TemplateNode>, Error> {
        let (nodes, end) = self.parse_block(depth)?;
        match end.keyword {
            BlockKeyword::End => Ok(nodes),
            BlockKeyword::EndOfTemplate => self.fail(offset, &format!("{keyword} has no end")),
            BlockKeyword::Else | BlockKeyword::ElseIf(_) => {
                self.fail(end.offset, "an else follows the last else")
            }
        }
    }

    /// Parses a pipeline with what ends it: the end of the action, or a parenthesis where it is in one.
    fn parse_pipeline(&mut self, parentheses: usize) -> Result<TemplatePipeline, Error> {
        let mut commands = Vec::new();
        loop {
            let (command, end) = self.parse_command(parentheses, !commands.is_empty())?;
            commands.push(command);
            match end {
                TemplateToken::Pipe => {}
                TemplateToken::Close { trims } => {
                    self.trims_next = trims;
                    return Ok(TemplatePipeline(commands));
                }
                _ => return Ok(TemplatePipeline(commands)),
            }
        }
    }

    fn parse_command(
        &mut self,
        parentheses: usize,
        is_piped: bool,
    ) -> Result<(TemplateCommand, TemplateToken), Error> {
        let (mut function, mut operands) = (None, Vec::new());
        self.tokens.skip_spaces();
        let begin = self.tokens.at;
        let end = loop {
            let (token, offset) = self.tokens.next_token()?;
            match token {
                TemplateToken::Word(word) if function.is_none() && operands.is_empty() => {
                    function = Some(self.find_function(&word, offset)?);
                }
                TemplateToken::Word(_) => {
                    return self.fail(offset, "a function as an argument needs parentheses");
                }
                TemplateToken::Path { is_absolute, names } => {
                    operands.push(TemplateOperand::Path(FieldPath {
                        is_absolute,
                        names,
                        offset,
                    }))
                }
                TemplateToken::Constant(value) => operands.push(TemplateOperand::Constant(value)),
                TemplateToken::OpenParenthesis if parentheses >= MAX_DEPTH => {
                    return self.fail(offset, "parentheses are nested too deep");
                }
                TemplateToken::OpenParenthesis => {
                    operands.push(TemplateOperand::Group(self.parse_pipeline(parentheses + 1)?));
                }
                TemplateToken::CloseParenthesis if parentheses == 0 => {
                    return self.fail(offset, "a parenthesis is closed that was not opened");
                }
                TemplateToken::Close { .. } if parentheses > 0 => {
                    return self.fail(offset, "a parenthesis is not closed");
                }
                end @ (TemplateToken::Pipe
                | TemplateToken::CloseParenthesis
                | TemplateToken::Close { .. }) => {
                    break end;
                }
            }
        };
        let command = TemplateCommand { function, operands };
        self.check_command(&command, begin, is_piped)?;
        Ok((command, end))
    }

    fn find_function(&self, word: &str, offset: usize) -> Result<TemplateFunction, Error> {
        let found = TemplateFunction::ALL.iter().find(|(name, _)| *name == word);
        match found {
            Some((_, function)) => Ok(*function),
            None => {
                let names = TemplateFunction::ALL.map(|(name, _)| name).join(", ");
                let word = quote_excerpt(word);
                self.fail(
                    offset,
                    &format!("there is no function {word:?}; there are {names}"),
                )
            }
        }
    }

    fn check_command(&self, command: &TemplateCommand, offset: usize, is_piped: bool) -> Result<(), Error> {
        let count = command.operands.len();
        match command.function {
            Some(function) if function.takes(count + usize::from(is_piped)) => Ok(()),
            Some(_) => self.fail(offset, "the function takes another number of arguments"),
            None if count == 0 => self.fail(offset, "a value is missing"),
            None if count > 1 => self.fail(offset, "only a function has arguments"),
            None if is_piped => self.fail(offset, "only a function can follow a pipe"),
            None => Ok(()),
        }
    }
}
