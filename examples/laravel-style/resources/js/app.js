import { mark } from './mark.js';

mark(document.querySelector('main'));
