"""Language models behind a server that completes chats as OpenAI's does: critics and policies."""
