"""The help texts of the interactive prompt."""

HELP = """\
Available Commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Load a session or model
  /save <model>   Save your current session
  /list           List the models on this box
  /clear          Clear session context
  /bye            Exit
  /?, /help       Help for a command
  /? shortcuts    Help for keyboard shortcuts

Use \""" to begin a multi-line message.
Write the path of an image, such as ./cat.png, to show it to a model that can see.
"""

SET_HELP = """\
Available Commands:
  /set parameter ...     Set a parameter
  /set system <string>   Set system message
  /set history           Enable history
  /set nohistory         Disable history
  /set wordwrap          Enable wordwrap
  /set nowordwrap        Disable wordwrap
  /set format json       Enable JSON mode
  /set noformat          Disable formatting
  /set verbose           Show timings of each answer
  /set quiet             Hide timings
  /set think [level]     Enable thinking
  /set nothink           Disable thinking
"""

SHOW_HELP = """\
Available Commands:
  /show info         Show details for this model
  /show license      Show model license
  /show modelfile    Show Modelfile for this model
  /show parameters   Show parameters for this model
  /show system       Show system message
  /show template     Show prompt template
"""

SHORTCUTS_HELP = """\
Available keyboard shortcuts:
  Ctrl + a   Move to the beginning of the line
  Ctrl + e   Move to the end of the line
   Alt + b   Move back one word
   Alt + f   Move forward one word
  Ctrl + k   Delete from the cursor to the end
  Ctrl + u   Delete from the beginning to the cursor
  Ctrl + w   Delete the word before the cursor
  Ctrl + r   Search the history
  Ctrl + l   Clear the screen
  Ctrl + c   Stop the model from responding
  Ctrl + d   Exit (/bye)
"""

PARAMETER_HELP = """\
Available Parameters:
  /set parameter seed <int>               Random number seed
  /set parameter num_predict <int>        Most tokens to generate
  /set parameter top_k <int>              Pick from the k likeliest tokens
  /set parameter top_p <float>            Pick from the likeliest tokens of this total probability
  /set parameter min_p <float>            Least probability, as a share of the likeliest token's
  /set parameter num_ctx <int>            Context length in tokens
  /set parameter temperature <float>      Creativity; 0 always picks the likeliest token
  /set parameter repeat_penalty <float>   How strongly to penalize repetitions
  /set parameter repeat_last_n <int>      How far back to look for repetitions
  /set parameter num_gpu <int>            Number of layers on the GPU
  /set parameter stop <string> ...        Texts at which the answer ends
"""
